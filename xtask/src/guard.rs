//! The proxy that stands between cargo and the network under `mirrors-only`: cargo follows every redirect, and every `dl`
//! of an index, to whatever host they name.
//!
//! Owns: which hosts cargo's connections lead to, and the account of those that were not made. Never: look up the name of a
//! host that is not allowed, look into a tunnel, or pass anybody on who does not know this run's password: it speaks with the
//! person's own proxy in the person's name.
//! Rules: RFC 9110 section 9.3.6 (`CONNECT`), RFC 9112 section 3.2.2 (requests to a proxy).

use crate::bypass::Bypass;
use crate::coding::{base64, percent_decode};
use crate::failure::{self, Failure};
use crate::tr;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// As long as cargo waits at its most patient.
const CONNECT: Duration = Duration::from_secs(30);
/// Until a head is complete; bodies are cargo's to bound.
const HEAD: Duration = Duration::from_secs(30);
const MAX_HEAD_BYTES: usize = 64 << 10;

pub struct Guard {
    address: SocketAddr,
    password: String,
    account: Arc<Mutex<Account>>,
}

/// What became of connections that were not made.
#[derive(Default)]
pub struct Account {
    /// URLs that lead outside the profile, each once; of a tunnel its host is all that is known.
    pub outside: BTreeSet<String>,
    /// Why a host of the profile was not reached.
    pub unreached: Option<String>,
    /// How often it was read: what a connection of an earlier run of cargo has to say comes too late.
    runs: u64,
}

/// How the guard itself reaches hosts.
#[derive(Default)]
pub struct Onward {
    /// For https and for http.
    pub proxies: [Option<Proxy>; 2],
    pub no_proxy: Vec<Bypass>,
}

/// A person's proxy, spoken to in plain HTTP.
pub struct Proxy {
    /// `host:port`.
    authority: String,
    authorization: Option<String>,
}

impl Proxy {
    /// # Errors
    /// Configuration, for one that speaks anything else: through it nobody could see where cargo is led.
    pub fn read(url: &str) -> Result<Self, Failure> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        // A password may hold a `/`.
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        let host = place.split('/').next().unwrap_or_default();
        if scheme != "http" || host.is_empty() {
            let shown = format!("{scheme}://{host}");
            let message = tr!("`mirrors-only` cannot be kept through the proxy {proxy}", proxy = shown);
            return Err(Failure::new(failure::CONFIGURATION, message)
                .hint(tr!("name its http:// port; most proxies that speak SOCKS or TLS have one")));
        }
        // curl's own default.
        let authority = if with_port(host) { host.to_owned() } else { format!("{host}:1080") };
        let authorization =
            user.map(|user| format!("Proxy-Authorization: Basic {}\r\n", base64(&percent_decode(user))));
        Ok(Self { authority, authorization })
    }
}

/// What every connection shares.
struct Rules {
    /// `host`, for its usual port, or `host:port`.
    allowed: BTreeSet<String>,
    onward: Onward,
    /// The line that cargo has to send.
    known: String,
    account: Arc<Mutex<Account>>,
}

impl Guard {
    /// # Errors
    /// Network: no port of loopback can be had.
    pub fn start(allowed: BTreeSet<String>, onward: Onward) -> Result<Self, Failure> {
        let cannot =
            |error| Failure::new(failure::NETWORK, tr!("cannot watch over what cargo contacts")).because(error);
        let mut secret = [0; 16];
        File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut secret)).map_err(cannot)?;
        let password: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let account = Arc::default();
        let known = format!("Basic {}", base64(format!("xtask:{password}").as_bytes()));
        let rules = Arc::new(Rules { allowed, onward, known, account: Arc::clone(&account) });
        // Both end with this process.
        thread::spawn(move || {
            for cargo in listener.incoming().flatten() {
                let rules = Arc::clone(&rules);
                let run = rules.account().runs;
                thread::spawn(move || rules.serve(cargo, run));
            }
        });
        Ok(Self { address, password, account })
    }

    /// The proxy that cargo is told of.
    pub fn proxy(&self) -> String {
        format!("http://xtask:{}@{}", self.password, self.address)
    }

    /// Whether cargo was kept from a host outside the profile since the account was last read.
    pub fn kept_from_any(&self) -> bool {
        !self.account.lock().unwrap_or_else(PoisonError::into_inner).outside.is_empty()
    }

    /// What was noted since the last question.
    pub fn account(&self) -> Account {
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Account { runs: account.runs + 1, ..Account::default() };
        std::mem::replace(&mut account, next)
    }
}

impl Rules {
    /// One request or one tunnel. Whatever fails here, cargo sees its connection end.
    fn serve(&self, mut cargo: TcpStream, run: u64) -> io::Result<()> {
        let request = Head::read(&mut cargo)?;
        let mut words = request.first.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let tunnel = method == "CONNECT";
        let place = if tunnel { Some(target) } else { target.strip_prefix("http://") };
        let Some(place) = place.filter(|_| request.value("proxy-authorization") == Some(&self.known)) else {
            return refuse(&mut cargo, "407 Proxy Authentication Required");
        };
        let (host, path) = place.split_at(place.find(['/', '?']).unwrap_or(place.len()));
        let host = host.to_lowercase();
        let authority = if with_port(&host) { host } else { format!("{host}:80") };
        if !self.allows(&authority, tunnel) {
            // A query may hold a signature.
            let url = || target.split('?').next().unwrap_or_default().to_owned();
            let url = if tunnel { format!("https://{}/…", usual(&authority, 443)) } else { url() };
            self.note(run, |account| account.outside.extend([url]));
            return refuse(&mut cargo, "403 Forbidden");
        }
        let proxy = self.onward.of(&authority, tunnel);
        let mut server = match self.connect(&authority, proxy, tunnel) {
            Ok(server) => server,
            Err(reason) => {
                self.note(run, |account| account.unreached = Some(reason));
                return refuse(&mut cargo, "502 Bad Gateway");
            }
        };
        if tunnel {
            cargo.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        } else {
            let slash = if path.starts_with('/') { "" } else { "/" };
            let target = if proxy.is_some() { target } else { &format!("{slash}{path}") };
            let own = proxy.and_then(|proxy| proxy.authorization.as_deref()).unwrap_or_default();
            server.write_all(request.passed_on(&format!("{method} {target} HTTP/1.1"), own).as_bytes())?;
            // The next request of this connection may be for another host, so there is none.
            let mut answer = Head::read(&mut server)?;
            while answer.status().starts_with('1') {
                answer = Head::read(&mut server)?;
            }
            cargo.write_all(answer.passed_on(&answer.first, "").as_bytes())?;
        }
        let back = (server.try_clone()?, cargo.try_clone()?);
        thread::spawn(move || pump(back.0, back.1));
        pump(cargo, server);
        Ok(())
    }

    fn allows(&self, authority: &str, https: bool) -> bool {
        self.allowed.contains(usual(authority, if https { 443 } else { 80 })) || self.allowed.contains(authority)
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, run: u64, change: impl FnOnce(&mut Account)) {
        let mut account = self.account();
        if account.runs == run {
            change(&mut account);
        }
    }

    /// A connection to a host of the profile, or to the proxy that passes a request for it on.
    fn connect(&self, authority: &str, proxy: Option<&Proxy>, tunnel: bool) -> Result<TcpStream, String> {
        let Some(proxy) = proxy else { return dial(authority) };
        let failed = |reason: String| tr!("the proxy {proxy}: {reason}", proxy = proxy.authority, reason);
        let mut server = dial(&proxy.authority).map_err(failed)?;
        if tunnel {
            let own = proxy.authorization.as_deref().unwrap_or_default();
            let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{own}\r\n");
            let answer = server.write_all(request.as_bytes()).and_then(|()| Head::read(&mut server));
            let answer = answer.map_err(|error| failed(error.to_string()))?;
            if !answer.status().starts_with('2') {
                return Err(failed(tr!("it answered `{answer}`", answer = answer.first.escape_debug())));
            }
        }
        Ok(server)
    }
}

impl Onward {
    fn of(&self, authority: &str, https: bool) -> Option<&Proxy> {
        let (host, port) = authority.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']);
        let port = port.parse().ok()?;
        // No proxy can reach this machine's own loopback for us.
        let loopback = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        let past = loopback || self.no_proxy.iter().any(|rule| rule.covers(host, port));
        self.proxies[usize::from(!https)].as_ref().filter(|_| !past)
    }
}

/// Start line and header lines of a request or an answer.
struct Head {
    first: String,
    lines: Vec<String>,
}

impl Head {
    /// Byte by byte up to the empty line: what follows belongs to somebody else.
    fn read(stream: &mut TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(HEAD))?;
        let (mut text, mut byte) = (Vec::new(), [0]);
        while !text.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            text.push(byte[0]);
            if text.len() > MAX_HEAD_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        stream.set_read_timeout(None)?;
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.trim_end().split("\r\n").map(str::to_owned);
        Ok(Self { first: lines.next().unwrap_or_default(), lines: lines.collect() })
    }

    /// Of an answer.
    fn status(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    fn value(&self, name: &str) -> Option<&str> {
        let named = self.lines.iter().filter_map(|line| line.split_once(':'));
        named.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    /// The same for the other side, of a connection that ends with its answer.
    fn passed_on(&self, first: &str, own: &str) -> String {
        let of_connection = ["connection", "keep-alive", "proxy-authorization", "proxy-connection"];
        let stays = |line: &&String| {
            let name = line.split(':').next().unwrap_or_default();
            !of_connection.iter().any(|it| name.eq_ignore_ascii_case(it))
        };
        let lines: String = self.lines.iter().filter(stays).map(|line| format!("{line}\r\n")).collect();
        format!("{first}\r\n{lines}{own}Connection: close\r\n\r\n")
    }
}

fn refuse(cargo: &mut TcpStream, status: &str) -> io::Result<()> {
    write!(cargo, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn dial(authority: &str) -> Result<TcpStream, String> {
    let mut reason = tr!("its name has no address");
    for address in
        authority.to_socket_addrs().map_err(|error| tr!("its name cannot be looked up (DNS): {error}", error))?
    {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) => reason = format!("{address}: {error}"),
        }
    }
    Err(reason)
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn with_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// An authority without the port that goes without saying.
fn usual(authority: &str, port: u16) -> &str {
    authority.strip_suffix(&format!(":{port}")).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The status of the answer, and what came after it.
    fn ask(guard: &Guard, password: &str, request: &str, words: &[u8]) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(guard.address).unwrap();
        let known = base64(format!("xtask:{password}").as_bytes());
        write!(stream, "{request} HTTP/1.1\r\nProxy-Authorization: Basic {known}\r\n\r\n").unwrap();
        let head = Head::read(&mut stream).unwrap();
        // A refusal may have closed it.
        let _ = stream.write_all(words).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        (head.status().to_owned(), answer)
    }

    #[test]
    fn a_tunnel_leads_to_an_allowed_port_only_and_for_this_run_only() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let echo = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut words = [0; 5];
            stream.read_exact(&mut words).unwrap();
            stream.write_all(&words).unwrap();
        });
        let allowed = BTreeSet::from([place.clone(), "mirror.example".to_owned()]);
        let guard = Guard::start(allowed, Onward::default()).unwrap();
        let refused = |status: &str| (status.to_owned(), Vec::new());
        assert_eq!(ask(&guard, "guessed", &format!("CONNECT {place}"), b""), refused("407"));
        for other in ["127.0.0.1:1", "mirror.example:8443", "mirror.example.:443", "x@mirror.example:443"] {
            assert_eq!(ask(&guard, &guard.password, &format!("CONNECT {other}"), b""), refused("403"), "{other}");
        }
        assert_eq!(ask(&guard, &guard.password, "GET http://mirror.example:443/a?sig=1", b""), refused("403"));
        assert!(guard.kept_from_any());
        let outside = [
            "http://mirror.example:443/a",
            "https://127.0.0.1:1/…",
            "https://mirror.example./…",
            "https://mirror.example:8443/…",
        ];
        let account = guard.account();
        assert!(outside.iter().all(|url| account.outside.contains(*url)), "{:?}", account.outside);
        assert!(!guard.kept_from_any() && account.unreached.is_none());

        let (status, answer) = ask(&guard, &guard.password, &format!("CONNECT {place}"), b"hello");
        assert_eq!((status.as_str(), answer.as_slice()), ("200", b"hello".as_slice()));
        echo.join().unwrap();
        assert_eq!(ask(&guard, &guard.password, &format!("CONNECT {place}"), b""), refused("502"));
        assert!(guard.account().unreached.is_some_and(|reason| reason.contains("refused")));
    }

    #[test]
    fn only_a_proxy_that_is_spoken_to_in_http_is_used() {
        for (url, authority, authorization) in [
            ("http://u:p%40@proxy:3128/", "proxy:3128", Some("Proxy-Authorization: Basic dTpwQA==\r\n")),
            ("u:p/@proxy:3128", "proxy:3128", Some("Proxy-Authorization: Basic dTpwLw==\r\n")),
            ("proxy", "proxy:1080", None),
        ] {
            let proxy = Proxy::read(url).unwrap();
            assert_eq!((proxy.authority.as_str(), proxy.authorization.as_deref()), (authority, authorization));
        }
        for url in ["socks5://u:secret@proxy:1080", "https://u:secret@proxy", "http://"] {
            let told = Proxy::read(url).err().unwrap().to_string();
            assert!(told.contains("cannot be kept") && !told.contains("secret"), "{told}");
        }
        let proxies = [Proxy::read("tls:1").ok(), Proxy::read("plain:1").ok()];
        let onward = Onward { proxies, no_proxy: Bypass::parse(".corp.example").into_iter().collect() };
        let of = |authority, https| onward.of(authority, https).map(|proxy| proxy.authority.as_str());
        assert_eq!(of("a.example:443", true), Some("tls:1"));
        assert_eq!(of("a.example:80", false), Some("plain:1"));
        assert_eq!([of("git.corp.example:443", true), of("localhost:80", false), of("[::1]:443", true)], [None; 3]);
    }
}
