//! The Python simple index: which file a project offers under a name, and where.
//!
//! Owns: reading a project page, as JSON or as HTML. Never: let an index say which bytes are right; the pin does.
//! Rules: PEP 503 (names, HTML), PEP 691 (JSON), PEP 592 (yanked), PEP 700 (size).

use crate::Gateway;
use crate::downloads::Pin;
use crate::error::{Error, Kind};
use crate::fetch::{Errand, Fetched, fetch};
use crate::request::{Ask, Document, looks_like_a_web_page, web_page};
use crate::upstream::ask_each;
use crate::url::{Url, encode_path};
use hyper::header::{self, HeaderValue};
use protocol::{Ecosystem, Failure, ListedFile, Upstream};
use serde::Deserialize;
use std::collections::BTreeMap;

const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";
/// The longest project pages are a few megabytes.
const MAX_PAGE_BYTES: usize = 64 << 20;

pub struct File {
    pub listed: ListedFile,
    url: Url,
}

pub async fn wheel(
    gateway: &Gateway,
    errand: &Errand,
    project: &str,
    filename: &str,
    sha256: &str,
    size_bytes: u64,
) -> Result<Fetched, Failure> {
    let subject = format!("wheel {filename}");
    let pin = Pin::sha256(sha256).map_err(|error| error.failure(&subject, Vec::new()))?;
    let wanted = errand.wanted(Ecosystem::Python, subject, pin, Some(size_bytes));
    let upstreams = gateway.upstreams(Ecosystem::Python, &normalised(project)).await;
    fetch(gateway, &wanted, &upstreams, async |upstream: &Upstream| {
        let files = page(gateway, &errand.step, upstream, project).await?;
        let offered = files.len();
        files.into_iter().find(|file| file.listed.filename == filename).map(|file| file.url).ok_or_else(|| {
            Error::new(
                Kind::Absent,
                format!("its page of {project} lists {offered} files, and {filename} is not among them"),
            )
        })
    })
    .await
}

/// What the first upstream that answers offers for a project.
pub async fn list(gateway: &Gateway, errand: &Errand, project: &str) -> Result<Vec<ListedFile>, Failure> {
    let subject = format!("project {project}");
    let upstreams = gateway.upstreams(Ecosystem::Python, &normalised(project)).await;
    let files = ask_each(&subject, &upstreams, &gateway.limits, async |upstream: &Upstream| {
        page(gateway, &errand.step, upstream, project).await
    });
    Ok(files.await?.into_iter().map(|file| file.listed).collect())
}

async fn page(gateway: &Gateway, step: &str, upstream: &Upstream, project: &str) -> Result<Vec<File>, Error> {
    let url = Url::parse(&upstream.url)?.below(&format!("{}/", encode_path(&normalised(project))))?;
    let headers = vec![(header::ACCEPT, HeaderValue::from_static(ACCEPT))];
    let artifact = format!("project {project}");
    let ask = Ask { step, ecosystem: Ecosystem::Python, artifact: &artifact, upstream, url: &url, headers };
    let document = gateway.client.document(ask, MAX_PAGE_BYTES).await?;
    read(&document)
}

/// PEP 503: `Foo._Bar` and `foo-bar` are one project.
fn normalised(project: &str) -> String {
    let parts = project.split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

/// # Errors: Html for a page without a single link to a file, Malformed.
fn read(document: &Document) -> Result<Vec<File>, Error> {
    let content_type =
        document.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.contains("json") { from_json(document) } else { from_html(document) }
}

#[derive(Deserialize)]
struct Page {
    files: Vec<PageFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PageFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    requires_python: Option<String>,
    size: Option<u64>,
    /// A flag, or the reason as a text.
    #[serde(default)]
    yanked: serde_json::Value,
}

fn from_json(document: &Document) -> Result<Vec<File>, Error> {
    if looks_like_a_web_page(&document.bytes) {
        return Err(web_page(&document.bytes));
    }
    let page: Page = serde_json::from_slice(&document.bytes)
        .map_err(|cause| Error::new(Kind::Malformed, format!("its project page is not PEP 691 JSON: {cause}")))?;
    let files = page.files.into_iter().filter_map(|file| {
        let listed = ListedFile {
            filename: file.filename,
            sha256: file.hashes.get("sha256").cloned(),
            size_bytes: file.size,
            requires_python: file.requires_python,
            yanked: !matches!(file.yanked, serde_json::Value::Null | serde_json::Value::Bool(false)),
        };
        Some(File { listed, url: document.url.join(&file.url).ok()? })
    });
    Ok(files.collect())
}

fn from_html(document: &Document) -> Result<Vec<File>, Error> {
    let text = String::from_utf8_lossy(&document.bytes);
    let files: Vec<File> = anchors(&text)
        .into_iter()
        .filter_map(|anchor| {
            let href = anchor.attribute("href")?;
            let sha256 = href.split_once("#sha256=").map(|(_, hash)| hash.to_owned());
            let listed = ListedFile {
                filename: anchor.text.trim().to_owned(),
                sha256,
                size_bytes: None,
                requires_python: anchor.attribute("data-requires-python").map(str::to_owned),
                yanked: anchor.attribute("data-yanked").is_some(),
            };
            Some(File { listed, url: document.url.join(href).ok()? })
        })
        .collect();
    let archives = [".whl", ".tar.gz", ".zip", ".tar.bz2"];
    // A portal has links too, but not to archives. A project without any file is not a page that we could use either.
    if files.iter().any(|file| archives.iter().any(|ending| file.listed.filename.ends_with(ending))) {
        Ok(files)
    } else {
        Err(web_page(&document.bytes))
    }
}

struct Anchor {
    attributes: Vec<(String, String)>,
    text: String,
}

impl Anchor {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The `<a …>text</a>` elements of a page: all that PEP 503 uses of HTML.
fn anchors(html: &str) -> Vec<Anchor> {
    let mut found = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find("<a").or_else(|| rest.find("<A")) {
        rest = &rest[start + 2..];
        if !rest.starts_with(|c: char| c.is_ascii_whitespace()) {
            continue;
        }
        let (attributes, after) = attributes(rest);
        let text = after.split('<').next().unwrap_or_default();
        found.push(Anchor { attributes, text: unescaped(text) });
        rest = after;
    }
    found
}

/// The attributes of a tag, and what follows its `>`.
fn attributes(tag: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    let mut rest = tag;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        let name_end = rest.find(|c: char| c.is_ascii_whitespace() || "=>/".contains(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(name_end);
        if name.is_empty() {
            // `>`, the end of the page, or a stray `=`.
            let after = after.find('>').map_or("", |end| &after[end + 1..]);
            return (found, after);
        }
        let after = after.trim_ascii_start();
        let Some(value) = after.strip_prefix('=').map(str::trim_ascii_start) else {
            found.push((name.to_ascii_lowercase(), String::new()));
            rest = after;
            continue;
        };
        let quoted = value.chars().next().filter(|quote| "\"'".contains(*quote));
        let (value, after) = match quoted {
            Some(quote) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
            None => value.split_at(value.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(value.len())),
        };
        found.push((name.to_ascii_lowercase(), unescaped(value)));
        rest = after;
    }
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        plain.push_str(&rest[..start]);
        rest = &rest[start..];
        let entity = rest.find(';').map(|end| &rest[1..end]);
        let decoded = entity.and_then(|entity| match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            number => {
                let number = number.strip_prefix('#')?;
                let code = number
                    .strip_prefix(['x', 'X'])
                    .map_or_else(|| number.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok());
                code.and_then(char::from_u32)
            }
        });
        plain.push(decoded.unwrap_or('&'));
        rest = &rest[decoded.and(entity).map_or(1, |entity| entity.len() + 2)..];
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hyper::header::HeaderMap;

    fn document(bytes: &'static str) -> Result<Document, Error> {
        let url = Url::parse("https://pypi.example/simple/foo/")?;
        Ok(Document { status: 200, headers: HeaderMap::new(), url, bytes: Bytes::from_static(bytes.as_bytes()) })
    }

    #[test]
    fn an_html_page_is_read_as_pep_503_writes_it() -> Result<(), Error> {
        let page = document(concat!(
            "<!DOCTYPE html><html><body><abbr>x</abbr>\n",
            "<a href=\"../../packages/foo-1.0-py3-none-any.whl#sha256=aa\" data-requires-python=\"&gt;=3.10&#44;&lt;4\">foo-1.0-py3-none-any.whl</a><br/>",
            "<a data-yanked  href='https://files.example/foo-2.0.tar.gz?a=1&amp;b=2'>foo-2.0.tar.gz</a></body></html>",
        ))?;
        let files = from_html(&page)?;
        let told: Vec<_> = files
            .iter()
            .map(|file| {
                (
                    file.listed.filename.as_str(),
                    file.url.origin.host.as_str(),
                    file.url.path_and_query(),
                    file.listed.yanked,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("foo-1.0-py3-none-any.whl", "pypi.example", "/packages/foo-1.0-py3-none-any.whl".to_owned(), false),
                ("foo-2.0.tar.gz", "files.example", "/foo-2.0.tar.gz?a=1&b=2".to_owned(), true),
            ]
        );
        assert_eq!(files[0].listed.requires_python.as_deref(), Some(">=3.10,<4"));
        assert_eq!(files[0].listed.sha256.as_deref(), Some("aa"));
        Ok(())
    }

    #[test]
    fn a_portal_is_no_project_page() -> Result<(), Error> {
        let error = from_html(&document("<html><a href=/login>Sign in</a> to the guest network</html>")?).err();
        assert!(error.is_some_and(|error| error.kind == Kind::Html
            && error.message.contains("Sign in to the guest network")));
        Ok(())
    }

    #[test]
    fn project_names_are_normalised() {
        assert_eq!(normalised("Foo.._Bar-baz"), "foo-bar-baz");
    }
}
