//! This run's secrets, taken out of what servers say: an error page may repeat the password that it refuses.
//!
//! Owns: which texts these are, in the spellings in which a page repeats them. Never: give one back, or hold one that was not
//! in the setup or made by an upstream for us.
//! A server that wants to publish a password can spell it as it likes; this is about pages that mean no harm.

use protocol::coding::{base64, base64_decoded};
use protocol::{Credentials, Setup};
use std::sync::{PoisonError, RwLock};

/// Shorter ones are parts of every other word.
const MIN_CHARS: usize = 4;
const MASK: &str = "***";

static KNOWN: RwLock<Known> = RwLock::new(Known { secrets: Vec::new(), names: Vec::new() });

/// The longest spelling first, since one may hold another.
struct Known {
    secrets: Vec<String>,
    /// User names: no secrets, but whose they are is nobody's business. They may be plain words.
    names: Vec<String>,
}

/// Everything in a setup that is sent to prove who we are; the proxies' are learnt where their URLs are read.
pub fn learn_all(setup: &Setup) {
    let private = setup.private.values().flatten().flat_map(|private| &private.upstreams);
    let lists = setup.upstreams.values().chain(setup.registries.values()).chain(setup.files.values());
    let lists = lists.chain(setup.bases.values()).flatten();
    for upstream in lists.chain(&setup.databases).chain(private) {
        for authorization in [&upstream.authorization, &upstream.second_authorization].into_iter().flatten() {
            learn(authorization);
        }
        upstream.login.iter().for_each(learn_login);
    }
}

/// Of somebody at a registry.
pub fn learn_login(login: &Credentials) {
    match login {
        Credentials::Password(secret) => learn(secret),
        Credentials::IdentityToken(secret) | Credentials::Token(secret) => learn(&format!("Bearer {secret}")),
    }
}

/// From the value of an `Authorization` header.
pub fn learn(authorization: &str) {
    let (scheme, value) = authorization.split_once(' ').unwrap_or(("", authorization));
    let pair = base64_decoded(value).filter(|_| scheme.eq_ignore_ascii_case("basic"));
    let pair = pair.and_then(|bytes| String::from_utf8(bytes).ok());
    let (mut secrets, mut names) = (spellings(value), Vec::new());
    if let Some((user, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
        secrets.extend(spellings(&format!("{user}:{password}")));
        // A token may stand in the place of the user.
        secrets.extend(spellings(if password.is_empty() { user } else { password }));
        names = spellings(user);
    }
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    let Known { secrets: known_secrets, names: known_names } = &mut *known;
    for (list, learnt) in [(known_secrets, secrets), (known_names, names)] {
        list.extend(learnt);
        list.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        list.dedup();
    }
}

/// As it is, in a URL, in HTML, in a header.
fn spellings(text: &str) -> Vec<String> {
    let in_url = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    let in_html = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    // Some leave the padding out.
    let in_header = base64(text.as_bytes()).trim_end_matches('=').to_owned();
    let all = [text.to_owned(), text.bytes().map(in_url).collect(), in_html, in_header];
    all.into_iter().filter(|it| it.chars().count() >= MIN_CHARS).collect()
}

/// A message without them.
pub fn masked(text: &str) -> String {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    without(&known.secrets, text.to_owned())
}

/// Words of a page without them and without user names. Before it is cut: half a secret is one too.
pub fn masked_page(text: &str) -> String {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    without(&known.names, without(&known.secrets, text.to_owned()))
}

fn without(words: &[String], text: String) -> String {
    words.iter().fold(text, |text, word| if text.contains(word.as_str()) { text.replace(word, MASK) } else { text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_every_spelling_and_short_words_stay() {
        learn(&format!("Basic {}", base64(b"reader:p&ss w\xc3\xb6rd/1")));
        learn("Bearer hf_SecretToken");
        learn(&format!("Basic {}", base64(b"AloneAsUser:")));
        learn(&format!("Basic {}", base64(b"u:no")));
        for told in [
            "p&ss w\u{f6}rd/1",
            "p&amp;ss w\u{f6}rd/1",
            "p%26ss%20w%C3%B6rd%2F1",
            &base64("p&ss w\u{f6}rd/1".as_bytes()),
            &base64("reader:p&ss w\u{f6}rd/1".as_bytes()),
            "hf_SecretToken",
            "AloneAsUser",
            "u:no",
        ] {
            let masked = masked(&format!("“{told}” is wrong"));
            assert!(masked.trim_end_matches("” is wrong").trim_end_matches('=') == "“***", "{told}: {masked}");
        }
        assert_eq!(masked("no reader has u"), "no reader has u");
        assert_eq!(masked_page("no reader has u"), "no *** has u");
    }
}
