//! What is asked of BuildKit: the graph of a build, and what becomes of its result.
//!
//! Layers that exist are unpacked one over the other by BuildKit itself, so that each is one layer of the result, with owners, modes
//! and times as they are in the archive; no Dockerfile says that, since its instructions would add a variable and folders of
//! their own.
//! Rules: github.com/moby/buildkit `solver/pb/ops.proto`, `exporter/containerimage/exptypes`.

use bollard_buildkit_proto::moby::buildkit::v1::SolveRequest;
use bollard_buildkit_proto::pb::file_action::Action;
use bollard_buildkit_proto::pb::op::Op as Kind;
use bollard_buildkit_proto::pb::{Definition, FileAction, FileActionCopy, FileOp, Input, Op, OpMetadata, SourceOp};
use oci::Digest;
use prost::Message;
use protocol::engine::{Build, Export, Recipe};
use std::collections::{BTreeMap, HashMap};

/// Names of folders in a session: what a build reads, and where its Dockerfile is.
pub const CONTEXT: &str = "context";
pub const DOCKERFILE: &str = "dockerfile";
/// The only file of the latter.
pub const DOCKERFILE_NAME: &str = "Dockerfile";
/// The step that reads what is sent.
pub const FILES: &str = "files of the layers";
/// No input: an empty root file system.
const SCRATCH: i64 = -1;
/// As in the archive.
const UNCHANGED: i64 = -1;

/// Of a result: the configuration of its image.
pub const CONFIGURATION: &str = "containerimage.config";

/// The request for a build, whose files come from the session of this id.
pub fn request(build: &Build, session: &str, exporter: &str) -> SolveRequest {
    let mut exporting = HashMap::new();
    if let Export::Store { reference } = &build.export {
        exporting.insert("name".to_owned(), reference.clone());
    }
    let mut request = SolveRequest {
        r#ref: session.to_owned(),
        session: session.to_owned(),
        // Builders of today read this too; those of 2020 nothing else.
        exporter_deprecated: exporter.to_owned(),
        ..SolveRequest::default()
    };
    match &build.recipe {
        // No frontend and no graph: the builder waits for one that makes itself known, which we are.
        Recipe::Layers { .. } => {}
        Recipe::Dockerfile { arguments, host_network, .. } => {
            let platform = format!("linux/{}", build.architecture);
            let asked = [("platform", platform.as_str()), ("filename", DOCKERFILE_NAME)];
            let mut attributes: HashMap<String, String> =
                asked.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            attributes.extend(arguments.iter().map(|(name, value)| (format!("build-arg:{name}"), value.0.clone())));
            if *host_network {
                attributes.insert("force-network-mode".to_owned(), "host".to_owned());
                request.entitlements.push("network.host".to_owned());
            }
            if build.no_cache {
                attributes.insert("no-cache".to_owned(), String::new());
            }
            request.frontend = "dockerfile.v0".to_owned();
            request.frontend_attrs = attributes;
        }
    }
    request.exporter_attrs_deprecated = exporting;
    request
}

/// The graph of layers: one step an archive.
pub fn layers(archives: &[String], name: &str, no_cache: bool) -> Definition {
    let mut graph = Graph { no_cache, ..Graph::default() };
    let attributes = [("local.sharedkeyhint".to_owned(), name.to_owned())];
    let identifier = format!("local://{CONTEXT}");
    let source = SourceOp { identifier, attrs: BTreeMap::from(attributes) };
    let files = graph.add(Op { op: Some(Kind::Source(source)), ..Op::default() }, FILES);
    let mut below: Option<Input> = None;
    for archive in archives {
        let copy = FileActionCopy {
            src: format!("/{archive}"),
            dest: "/".to_owned(),
            mode: -1,
            timestamp: UNCHANGED,
            attempt_unpack_docker_compatibility: true,
            create_dest_path: true,
            ..FileActionCopy::default()
        };
        let inputs: Vec<Input> = below.into_iter().chain([files.clone()]).collect();
        let last = i64::try_from(inputs.len()).unwrap_or_default() - 1;
        let (input, secondary_input) = (if last == 0 { SCRATCH } else { 0 }, last);
        let action = FileAction { input, secondary_input, output: 0, action: Some(Action::Copy(copy)) };
        let unpack = Op { inputs, op: Some(Kind::File(FileOp { actions: vec![action] })), ..Op::default() };
        below = Some(graph.add(unpack, &format!("unpack {archive}")));
    }
    graph.ending_with(below)
}

#[derive(Default)]
struct Graph {
    no_cache: bool,
    definition: Definition,
}

impl Graph {
    fn add(&mut self, op: Op, name: &str) -> Input {
        let bytes = op.encode_to_vec();
        let digest = Digest::of(&bytes).to_string();
        let description = BTreeMap::from([("llb.customname".to_owned(), name.to_owned())]);
        let metadata = OpMetadata { ignore_cache: self.no_cache, description, ..OpMetadata::default() };
        self.definition.metadata.insert(digest.clone(), metadata);
        self.definition.def.push(bytes);
        Input { digest, index: 0 }
    }

    /// An operation that does nothing says which is the result.
    fn ending_with(mut self, result: Option<Input>) -> Definition {
        self.definition.def.push(Op { inputs: result.into_iter().collect(), ..Op::default() }.encode_to_vec());
        self.definition
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_archive_is_a_step_over_the_one_before() {
        let archives = ["base".to_owned(), "top".to_owned()];
        let definition = layers(&archives, "demo/small", false);
        let steps: Vec<Op> = definition.def.iter().map(|bytes| Op::decode(bytes.as_slice()).unwrap()).collect();
        let digests: Vec<String> = definition.def.iter().map(|bytes| Digest::of(bytes).to_string()).collect();
        let needs = |step: &Op| {
            let index = |input: &Input| digests.iter().position(|it| *it == input.digest).unwrap();
            step.inputs.iter().map(index).collect::<Vec<_>>()
        };
        assert_eq!(steps.iter().map(needs).collect::<Vec<_>>(), [vec![], vec![0], vec![1, 0], vec![2]]);
        let over = |step: &Op| match &step.op {
            Some(Kind::File(file)) => (file.actions[0].input, file.actions[0].secondary_input),
            other => panic!("{other:?}"),
        };
        assert_eq!((over(&steps[1]), over(&steps[2])), ((SCRATCH, 0), (0, 1)));
    }
}
