//! Files on their way to a builder, of which those that it has already stay here.
//!
//! Owns: what a builder is told of files, and their bytes where it asks for them. Never: look for a file; send one that is not named.
//! Rules: github.com/tonistiigi/fsutil, `send.go`: entries in the order of their paths and an empty one; then for each that is asked
//! for its bytes and an empty piece; whoever receives says when it has all.

use crate::session::Activity;
use crate::wire;
use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};
use futures_util::Stream;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

/// Below the 4 MiB that gRPC takes as one message.
const PIECE_BYTES: usize = 256 << 10;
/// In flight: this many pieces at most.
const PIECES: usize = 8;
/// Go's `fs.ModeDir`.
const FOLDER: u32 = 1 << 31;

/// Where the bytes of a file come from.
#[derive(Clone, Debug)]
pub enum Source {
    File(PathBuf),
    /// Bytes of ours. A builder compares sizes and times, so the time follows from the bytes.
    Text {
        text: String,
        time: i64,
    },
}

/// A folder as a builder sees it: entries in the order that it expects, an empty source for folders.
#[derive(Clone, Debug, Default)]
pub struct Folder(Vec<(Stat, Option<Source>)>);

impl Folder {
    /// Owner, group and all modes but "executable" are nobody's business: they would make the same files other ones.
    pub fn new(files: &BTreeMap<String, Source>) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        let mut folders = BTreeSet::new();
        for (path, source) in files {
            folders.extend(path.match_indices('/').map(|(at, _)| &path[..at]));
            let stat = match source {
                Source::File(file) => {
                    let found = std::fs::metadata(file)
                        .map_err(|cause| io::Error::new(cause.kind(), format!("{}: {cause}", file.display())))?;
                    stat_of_file(path, &found)
                }
                Source::Text { text, time } => stat(path, 0o644, text.len() as u64, *time),
            };
            entries.insert(order(path), (stat, Some(source.clone())));
        }
        for path in folders {
            entries.insert(order(path), (stat(path, FOLDER | 0o755, 0, 0), None));
        }
        Ok(Self(entries.into_values().collect()))
    }
}

/// A folder stands before what is in it, and all that is in it before its next neighbour.
fn order(path: &str) -> Vec<&str> {
    path.split('/').collect()
}

fn stat(path: &str, mode: u32, size_bytes: u64, time: i64) -> Stat {
    let size = i64::try_from(size_bytes).unwrap_or(i64::MAX);
    Stat { path: path.to_owned(), mode, size, mod_time: time, ..Stat::default() }
}

fn stat_of_file(path: &str, found: &Metadata) -> Stat {
    let mode = if found.mode() & 0o111 == 0 { 0o644 } else { 0o755 };
    stat(path, mode, found.len(), found.mtime().saturating_mul(1_000_000_000).saturating_add(found.mtime_nsec()))
}

/// Answers one question for a folder, until the builder has all that it wants of it.
pub fn send(
    folder: Arc<Folder>,
    asked: Streaming<Packet>,
    activity: Arc<Activity>,
) -> impl Stream<Item = Result<Packet, Status>> {
    let (packets, outgoing) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        let told = tell(&folder, &packets);
        if let (_, Err(status)) = tokio::join!(told, give(&folder, asked, &packets, &activity)) {
            activity.broke(status.message());
            let _ = packets.send(Err(status)).await;
        }
    });
    wire::received(outgoing)
}

type Outgoing = mpsc::Sender<Result<Packet, Status>>;

fn packet(of: PacketType, id: u32, data: Vec<u8>) -> Packet {
    Packet { r#type: of.into(), stat: None, id, data }
}

async fn tell(folder: &Folder, packets: &Outgoing) {
    let stats = folder.0.iter().map(|(stat, _)| Some(stat.clone())).chain([None]);
    for stat in stats {
        if packets.send(Ok(Packet { stat, ..packet(PacketType::PacketStat, 0, Vec::new()) })).await.is_err() {
            return;
        }
    }
}

async fn give(
    folder: &Folder,
    mut asked: Streaming<Packet>,
    packets: &Outgoing,
    activity: &Arc<Activity>,
) -> Result<(), Status> {
    while let Some(question) = asked.message().await? {
        match question.r#type() {
            PacketType::PacketReq => {
                let source = usize::try_from(question.id).ok().and_then(|index| folder.0.get(index));
                let Some((stat, Some(source))) = source else {
                    return Err(Status::invalid_argument(format!("there is no file {}", question.id)));
                };
                let (size_bytes, source) = (stat.size.unsigned_abs(), source.clone());
                let (packets, activity) = (packets.clone(), activity.clone());
                let reading = move || read(&source, size_bytes, question.id, &packets, &activity);
                tokio::task::spawn_blocking(reading)
                    .await
                    .map_err(|cause| Status::internal(cause.to_string()))?
                    .map_err(|cause| Status::data_loss(format!("{}: {cause}", stat.path)))?;
            }
            PacketType::PacketFin => {
                let _ = packets.send(Ok(packet(PacketType::PacketFin, 0, Vec::new()))).await;
                return Ok(());
            }
            PacketType::PacketErr => return Err(Status::aborted(String::from_utf8_lossy(&question.data))),
            PacketType::PacketStat | PacketType::PacketData => {}
        }
    }
    Ok(())
}

/// The builder was told a size: a file that has another one by now changed under our hands.
fn read(source: &Source, size_bytes: u64, id: u32, packets: &Outgoing, activity: &Activity) -> io::Result<()> {
    let mut left = size_bytes;
    let mut reader: Box<dyn Read> = match source {
        Source::File(path) => Box::new(File::open(path)?),
        Source::Text { text, .. } => Box::new(text.as_bytes()),
    };
    loop {
        let mut piece = Vec::new();
        reader.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        let length = piece.len() as u64;
        left = left.checked_sub(length).ok_or_else(|| io::Error::other("it grew while it was sent"))?;
        activity.sent(length);
        if packets.blocking_send(Ok(packet(PacketType::PacketData, id, piece))).is_err() {
            // Nobody listens any more; why, the answer to the whole build says.
            return Ok(());
        }
        match (length, left) {
            (0, 0) => return Ok(()),
            (0, _) => return Err(io::Error::other("it shrank while it was sent")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Source {
        Source::Text { text: text.to_owned(), time: 7 }
    }

    #[test]
    fn a_folder_comes_before_what_is_in_it_and_all_of_that_before_its_neighbours() {
        let files = ["a-b", "a/c/d", "a/b", "a.b", "b"].map(|path| (path.to_owned(), text("x")));
        let folder = Folder::new(&files.into()).unwrap();
        let told: Vec<(&str, u32)> = folder.0.iter().map(|(stat, _)| (stat.path.as_str(), stat.mode)).collect();
        let (file, folder) = (0o644, FOLDER | 0o755);
        assert_eq!(
            told,
            [("a", folder), ("a/b", file), ("a/c", folder), ("a/c/d", file), ("a-b", file), ("a.b", file), ("b", file)]
        );
    }

    #[test]
    fn a_file_that_has_another_size_by_now_is_an_error() {
        for (told, expected) in [(3, None), (2, Some("grew")), (4, Some("shrank"))] {
            let (packets, _kept) = mpsc::channel(9);
            let result = read(&text("abc"), told, 0, &packets, &Activity::default());
            assert_eq!(result.is_ok(), expected.is_none());
            assert!(expected.is_none_or(|it| result.unwrap_err().to_string().contains(it)));
        }
    }
}
