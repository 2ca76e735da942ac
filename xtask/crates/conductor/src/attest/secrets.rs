//! The credentials of a run, looked for in what it is about to hand out.
//!
//! Each is looked for as it stands, decoded from a URL, and in base64, alone and with its user. Nothing about a search is remembered:
//! a layer that is known may hold a password that was set today, and hashes of passwords on a disk could be guessed.
//! Owns: whose credentials count, and finding them in bytes. Never: show one, write one anywhere; read the environment or a file.

use crate::mirror::Profile;
use crate::mirror::direct::Defaults;
use crate::mirror::setup::places;
use crate::tr;
use protocol::Upstream;
use protocol::coding::{base64, base64_decoded, percent_decode};
use std::collections::BTreeMap;
use std::io::{self, Read};

/// Shorter texts stand everywhere by chance.
const SHORTEST_BYTES: usize = 8;
const PIECE_BYTES: usize = 256 * 1024;
/// A word of a variable's name that ends so says that it holds a credential: `HF_TOKEN`, `PGPASSWORD`; not `TOKENIZERS_PARALLELISM`.
const WORDS: &[&str] = &["token", "secret", "password", "passwd", "credential", "credentials", "apikey"];
/// So does a name that ends so; `GPG_KEY` is a fingerprint as a rule.
const ENDS: &[&str] = &["api_key", "access_key", "private_key", "secret_key"];

/// What must stay on this machine.
#[derive(Default)]
pub struct Secrets {
    /// Form in which it may stand somewhere → who told it.
    forms: BTreeMap<Vec<u8>, String>,
    /// Who told those that are too short to be looked for.
    pub too_short: Vec<String>,
}

impl Secrets {
    pub fn of_profile(&mut self, profile: &Profile) {
        let origin = tr!("mirror profile {name}", name = profile.name);
        let places = places(Some(profile), &Defaults::new(), None);
        let private = places.private.into_values().flatten().flat_map(|private| private.upstreams);
        let lists =
            places.upstreams.into_values().chain(places.registries.into_values()).chain(places.files.into_values());
        for Upstream { authorization, second_authorization, .. } in
            lists.flatten().chain(places.databases).chain(private)
        {
            for header in [authorization, second_authorization].into_iter().flatten() {
                match header.strip_prefix("Basic ").and_then(base64_decoded) {
                    Some(user) => self.add_user(&user, &origin),
                    None => self.add(header.rsplit(' ').next().unwrap_or_default().as_bytes(), &origin),
                }
            }
        }
        if let Some(proxy) = &profile.proxy {
            self.of_url(proxy.expose(), &origin);
        }
    }

    /// A variable, if its name or its value says that it holds a credential. A path is where one lies.
    pub fn of_variable(&mut self, name: &str, value: &str) {
        let name_in_lower_case = name.to_ascii_lowercase();
        let origin = tr!("variable {name}", name);
        let says_so = |word: &str| WORDS.iter().any(|end| word.ends_with(end));
        let is_credential =
            name_in_lower_case.split('_').any(says_so) || ENDS.iter().any(|end| name_in_lower_case.ends_with(end));
        if is_credential && !value.starts_with(['/', '~', '.']) {
            self.add(value.trim().as_bytes(), &origin);
        }
        self.of_url(value, &origin);
        if value.trim_start().starts_with('{') {
            self.of_registries(value, &origin);
        }
    }

    fn of_url(&mut self, text: &str, origin: &str) {
        for rest in text.split("://").skip(1) {
            let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
            if let Some((user, _)) = authority.rsplit_once('@') {
                self.add_user(user.as_bytes(), origin);
                self.add_user(&percent_decode(user), origin);
            }
        }
    }

    /// The file in which Docker and podman keep who may pull and push.
    pub fn of_registries(&mut self, json: &str, origin: &str) {
        let document: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
        for registry in document["auths"].as_object().into_iter().flat_map(|auths| auths.values()) {
            for (key, value) in registry.as_object().into_iter().flatten() {
                match (key.as_str(), value.as_str()) {
                    ("auth", Some(text)) => match base64_decoded(text) {
                        Some(user) => self.add_user(&user, origin),
                        None => self.add(text.as_bytes(), origin),
                    },
                    ("password" | "identitytoken" | "registrytoken", Some(text)) => self.add(text.as_bytes(), origin),
                    _ => {}
                }
            }
        }
    }

    /// `user:password`; a user alone is a token.
    fn add_user(&mut self, user: &[u8], origin: &str) {
        if let Some(colon) = user.iter().position(|byte| *byte == b':') {
            let password = &user[colon + 1..];
            if !password.is_empty() {
                self.add(password, origin);
                self.add_form(base64(user).into_bytes(), origin);
            }
        } else {
            self.add(user, origin);
        }
    }

    fn add(&mut self, secret: &[u8], origin: &str) {
        if secret.is_empty() {
            return;
        }
        if secret.len() < SHORTEST_BYTES {
            if !self.too_short.iter().any(|it| it == origin) {
                self.too_short.push(origin.to_owned());
            }
            return;
        }
        self.add_form(secret.to_vec(), origin);
        self.add_form(base64(secret).trim_end_matches('=').as_bytes().to_vec(), origin);
    }

    fn add_form(&mut self, form: Vec<u8>, origin: &str) {
        if form.len() >= SHORTEST_BYTES {
            self.forms.entry(form).or_insert_with(|| origin.to_owned());
        }
    }

    /// `None` where there is nothing to look for.
    pub fn search(&self) -> Option<Search<'_>> {
        let shortest = self.forms.keys().map(Vec::len).min()?;
        let longest = self.forms.keys().map(Vec::len).max()?;
        let (mut shift, mut ends) = ([shortest; 256], [false; 256]);
        for form in self.forms.keys() {
            for (index, byte) in form[..shortest - 1].iter().enumerate() {
                let distance = shortest - 1 - index;
                shift[usize::from(*byte)] = shift[usize::from(*byte)].min(distance);
            }
            ends[usize::from(form[shortest - 1])] = true;
        }
        Some(Search { forms: &self.forms, shortest, longest, shift, ends })
    }
}

/// Looks for many texts at once, as Horspool does for one: by the byte at the end of a window as long as the shortest of them.
pub struct Search<'a> {
    forms: &'a BTreeMap<Vec<u8>, String>,
    shortest: usize,
    longest: usize,
    /// How far the window may move when it ends with that byte.
    shift: [usize; 256],
    /// Whether a text's first `shortest` bytes end with that byte.
    ends: [bool; 256],
}

impl Search<'_> {
    /// Who told the first secret in these bytes.
    pub fn find(&self, bytes: &[u8]) -> Option<&str> {
        // Plain indexing: this runs unoptimised as a rule, over hundreds of megabytes.
        let mut end = self.shortest - 1;
        while end < bytes.len() {
            let byte = bytes[end] as usize;
            if self.ends[byte] {
                let window = &bytes[end + 1 - self.shortest..];
                if let Some((_, origin)) = self.forms.iter().find(|(form, _)| window.starts_with(form)) {
                    return Some(origin);
                }
            }
            end += self.shift[byte];
        }
        None
    }

    /// The same for a content of any length.
    pub fn find_in(&self, content: &mut dyn Read) -> io::Result<Option<&str>> {
        let mut buffer = vec![0; PIECE_BYTES + self.longest];
        let mut kept = 0;
        loop {
            let length = content.read(&mut buffer[kept..])?;
            if length == 0 {
                return Ok(None);
            }
            let filled = kept + length;
            if let Some(origin) = self.find(&buffer[..filled]) {
                return Ok(Some(origin));
            }
            // What may be the beginning of one that ends in the next piece.
            let begin = filled.saturating_sub(self.longest - 1);
            buffer.copy_within(begin..filled, 0);
            kept = filled - begin;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::{Layer, Profiles};

    fn secrets() -> Secrets {
        let mut secrets = Secrets::default();
        secrets.of_variable("HF_TOKEN", "hf_0123456789");
        secrets.of_variable("HTTPS_PROXY", "http://me:p%40ssword9@proxy:3128");
        secrets.of_variable("SHORT_TOKEN", "abc");
        secrets.of_variable("TOKEN_FILE", "/run/secrets/token");
        secrets.of_variable("EDITOR", "an editor of ours");
        secrets.of_variable("TOKENIZERS_PARALLELISM", "true-or-false");
        // `robot:registry-password`
        secrets.of_registries(r#"{"auths": {"r.example": {"auth": "cm9ib3Q6cmVnaXN0cnktcGFzc3dvcmQ="}}}"#, "the file");
        secrets
    }

    /// The coded forms are those of coreutils' base64 and of Python's `urllib.parse.quote`.
    #[test]
    fn a_credential_is_found_in_each_form_and_named_by_who_told_it() {
        let secrets = secrets();
        let search = secrets.search().unwrap();
        for (text, origin) in [
            ("x = 'hf_0123456789'", "variable HF_TOKEN"),
            ("aGZfMDEyMzQ1Njc4OQ==", "variable HF_TOKEN"),
            ("http_proxy=http://me:p%40ssword9@proxy", "variable HTTPS_PROXY"),
            ("password: p@ssword9", "variable HTTPS_PROXY"),
            ("Proxy-Authorization: Basic bWU6cEBzc3dvcmQ5", "variable HTTPS_PROXY"),
            ("registry-password", "the file"),
            ("{\"auth\":\"cm9ib3Q6cmVnaXN0cnktcGFzc3dvcmQ=\"}", "the file"),
        ] {
            assert_eq!(search.find(text.as_bytes()), Some(origin), "{text}");
        }
        for text in ["hf_012345678", "an editor of ours", "true-or-false", "/run/secrets/token", "abc", ""] {
            assert_eq!(search.find(text.as_bytes()), None, "{text}");
        }
        assert_eq!(secrets.too_short, ["variable SHORT_TOKEN"]);
        assert!(Secrets::default().search().is_none());
    }

    #[test]
    fn one_that_lies_across_two_reads_is_found_at_every_place() {
        /// Gives few bytes at a time.
        struct Slow<'a>(&'a [u8], usize);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = self.0.len().min(self.1).min(buffer.len());
                buffer[..length].copy_from_slice(&self.0[..length]);
                self.0 = &self.0[length..];
                Ok(length)
            }
        }
        let secrets = secrets();
        let search = secrets.search().unwrap();
        for place in 0..60 {
            let mut content = vec![b'_'; 100];
            content[place..place + 13].copy_from_slice(b"hf_0123456789");
            for step in [1, 7, 13, 1000] {
                assert!(search.find_in(&mut Slow(&content, step)).unwrap().is_some(), "{place} {step}");
            }
            content[place + 6] = b'x';
            assert!(search.find_in(&mut Slow(&content, 7)).unwrap().is_none(), "{place}");
        }
        for near in [PIECE_BYTES, 2 * PIECE_BYTES] {
            for place in near - 60..near + 60 {
                let mut content = vec![b'h'; 3 * PIECE_BYTES];
                content[place..place + 13].copy_from_slice(b"hf_0123456789");
                assert!(search.find_in(&mut content.as_slice()).unwrap().is_some(), "{place}");
            }
        }
    }

    #[test]
    fn a_profiles_credentials_are_those_of_all_its_places() {
        let text = "[office]\nproxy = 'http://me:of-the-proxy@proxy:3128'\n\
            crates.list = ['sparse+https://me:of-the-crates@h/c/']\ngo.proxy = ['https://of-the-go-proxy@h/go']\n\
            [office.python]\nlist = ['https://h/simple/']\n\
            private = [{ names = ['own-*'], list = ['https://me:of-the-private@h/own/simple/'] }]\n";
        let layer = Layer { origin: "xtask.local.toml".into(), section: toml::from_str(text).unwrap() };
        let profile = Profiles::new(vec![layer], Default::default()).unwrap().resolve("office", None).unwrap();
        let mut secrets = Secrets::default();
        secrets.of_profile(&profile);
        let search = secrets.search().unwrap();
        for text in ["of-the-proxy", "of-the-crates", "of-the-go-proxy", "of-the-private"] {
            assert_eq!(search.find(text.as_bytes()), Some("mirror profile office"), "{text}");
        }
    }
}
