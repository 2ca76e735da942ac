//! One JSON object a line on standard output: a contract, additive only.

use super::{Event, Summary, Voice};
use crate::settings::Verbosity;
use serde_json::{Map, Value, json};
use std::io::Write;

pub struct Json<W> {
    out: W,
    verbosity: Verbosity,
}

impl<W: Write> Json<W> {
    pub fn new(out: W, verbosity: Verbosity) -> Self {
        Self { out, verbosity }
    }

    fn line(&mut self, event: &str, body: Value) {
        let mut object = Map::new();
        object.insert("schema".to_owned(), json!(1));
        object.insert("event".to_owned(), json!(event));
        if let Value::Object(body) = body {
            object.extend(body);
        }
        // A reader that went away (`| head`) is not our failure.
        let _ = writeln!(self.out, "{}", Value::Object(object));
        let _ = self.out.flush();
    }
}

impl<W: Write + Send> Voice for Json<W> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Plan { steps, egress, tools, .. } => {
                let mut hosts: Vec<&String> = Vec::new();
                for host in egress.iter().flat_map(|(_, hosts)| hosts) {
                    if !hosts.contains(&host) {
                        hosts.push(host);
                    }
                }
                self.line("plan", json!({ "steps": steps, "egress": hosts, "tools": tools }));
            }
            Event::Start { id, reason } => self.line("step", json!({ "id": id, "state": "start", "reason": reason })),
            Event::Done { id, done, seconds, cpu_seconds, key, reason, log } => self.line(
                "step",
                json!({
                    "id": id, "state": "done", "status": done, "seconds": seconds, "cpu_seconds": cpu_seconds,
                    "key": key, "reason": reason, "log": log,
                }),
            ),
            Event::Fail { id, seconds, log, .. } => {
                self.line("step", json!({ "id": id, "state": "fail", "seconds": seconds, "log": log }));
            }
            Event::Artifact { name, path, digest, size_bytes } => {
                self.line("artifact", json!({ "name": name, "path": path, "sha256": digest, "size_bytes": size_bytes }))
            }
            Event::Image(image) => self.line("image", serde_json::to_value(image).unwrap_or_default()),
            Event::Finding(finding) => self.line("finding", serde_json::to_value(finding).unwrap_or_default()),
            Event::Waiting { id, holder, seconds } => {
                self.line("waiting", json!({ "id": id, "holder": holder, "seconds": seconds }));
            }
            Event::Testing { kind, suite, command } => {
                self.line(kind, json!({ "name": suite, "state": "start", "command": command }));
            }
            Event::Suite { kind, name, outcome, seconds, message } => {
                self.line(kind, json!({ "name": name, "outcome": outcome, "seconds": seconds, "message": message }))
            }
            Event::Answer { status, decision, body } => {
                let body = serde_json::from_str(body).unwrap_or_else(|_| json!(body));
                self.line("answer", json!({ "status": status, "decision": decision, "body": body }));
            }
            Event::Ready { service, url, seconds } => {
                self.line("ready", json!({ "service": service, "url": url, "seconds": seconds }));
            }
            // A person follows a machine-readable run on standard error.
            Event::Failed { text, finding } => {
                drop(writeln!(std::io::stderr(), "{text}"));
                self.line("finding", serde_json::to_value(finding).unwrap_or_default());
            }
            Event::Output { text, .. } if self.verbosity == Verbosity::Verbose => {
                drop(writeln!(std::io::stderr(), "{text}"))
            }
            Event::Note(text) if self.verbosity != Verbosity::Quiet => drop(writeln!(std::io::stderr(), "{text}")),
            Event::Output { .. } | Event::Note(_) | Event::Progress { .. } | Event::Contacted { .. } => {}
        }
    }

    fn summary(&mut self, summary: &Summary) {
        self.line("summary", serde_json::to_value(summary).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Counts, Done};

    #[test]
    fn lines_keep_their_shape() {
        let mut out = Vec::new();
        let mut json = Json::new(&mut out, Verbosity::Normal);
        json.event(&Event::Done {
            id: "go-binary:router".into(),
            done: Done::Ran,
            seconds: 1.5,
            cpu_seconds: 2.0,
            key: None,
            reason: Some(crate::cache::reason::Reason {
                input: "go".into(),
                old: Some("1".into()),
                new: Some("2".into()),
            }),
            log: Some("x.log".into()),
        });
        json.summary(&Summary {
            ok: true,
            seconds: 2.0,
            cache: Counts { hit: 1, restored: 0, ran: 1 },
            mirror: [("crates".into(), "rsproxy.cn".into())].into(),
            hosts_contacted: ["rsproxy.cn".into()].into(),
            ..Summary::default()
        });
        expect_test::expect![[r#"
            {"cpu_seconds":2.0,"event":"step","id":"go-binary:router","key":null,"log":"x.log","reason":{"input":"go","new":"2","old":"1"},"schema":1,"seconds":1.5,"state":"done","status":"ran"}
            {"cache":{"hit":1,"ran":1,"restored":0},"event":"summary","exit_code":0,"hosts_contacted":["rsproxy.cn"],"mirror":{"crates":"rsproxy.cn"},"ok":true,"schema":1,"seconds":2.0}
        "#]]
        .assert_eq(std::str::from_utf8(&out).unwrap());
    }
}
