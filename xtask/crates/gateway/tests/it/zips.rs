//! Zip files written byte by byte, since a library refuses to write the hostile ones.

pub struct Member {
    pub name: Vec<u8>,
    /// Name in the local header, where it is to disagree.
    pub local_name: Option<Vec<u8>>,
    pub data: Vec<u8>,
    /// Uncompressed bytes where `data` is deflated.
    pub inflated: Option<Vec<u8>>,
    /// Unix mode with its file type; 0: made on a system without modes.
    pub mode: u32,
    pub flags: u16,
}

pub fn member(name: impl Into<Vec<u8>>, data: impl Into<Vec<u8>>) -> Member {
    Member { name: name.into(), local_name: None, data: data.into(), inflated: None, mode: 0o100_644, flags: 0 }
}

/// APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16.
pub fn zip(members: &[Member]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for member in members {
        let plain = member.inflated.as_ref().unwrap_or(&member.data);
        let method: u16 = if member.inflated.is_some() { 8 } else { 0 };
        let local_name = member.local_name.as_ref().unwrap_or(&member.name);
        let common = |name: &[u8]| {
            let mut bytes = Vec::new();
            for short in [20, member.flags, method, 0, 0x21] {
                bytes.extend_from_slice(&short.to_le_bytes());
            }
            for long in [crc32(plain), member.data.len() as u32, plain.len() as u32] {
                bytes.extend_from_slice(&long.to_le_bytes());
            }
            bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
            bytes.extend_from_slice(&0_u16.to_le_bytes());
            bytes
        };
        directory.extend_from_slice(b"PK\x01\x02");
        directory.extend_from_slice(&(if member.mode == 0 { 20_u16 } else { 3 << 8 | 20 }).to_le_bytes());
        directory.extend_from_slice(&common(&member.name));
        directory.extend_from_slice(&[0; 6]);
        directory.extend_from_slice(&(member.mode << 16).to_le_bytes());
        directory.extend_from_slice(&(archive.len() as u32).to_le_bytes());
        directory.extend_from_slice(&member.name);
        archive.extend_from_slice(b"PK\x03\x04");
        archive.extend_from_slice(&common(local_name));
        archive.extend_from_slice(local_name);
        archive.extend_from_slice(&member.data);
    }
    let start = archive.len() as u32;
    archive.extend_from_slice(&directory);
    archive.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    archive.extend_from_slice(&(members.len() as u16).to_le_bytes());
    archive.extend_from_slice(&(members.len() as u16).to_le_bytes());
    archive.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    archive.extend_from_slice(&start.to_le_bytes());
    archive.extend_from_slice(&0_u16.to_le_bytes());
    archive
}

pub fn deflated(name: &str, plain: Vec<u8>) -> Member {
    use std::io::Write;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&plain).unwrap();
    Member { data: encoder.finish().unwrap(), inflated: Some(plain), ..member(name, "") }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
