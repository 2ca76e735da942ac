//! Tars made by hand, byte by byte and without the crate's own writer, so that each can be wrong in one place.

/// One header block as a well-behaved writer makes it, and what is then done to it.
#[derive(Clone)]
pub struct Part {
    pub header: [u8; 512],
    pub content: Vec<u8>,
    /// Whether the checksum fits; where not, it stays as it is.
    pub summed: bool,
}

pub fn part(flag: u8, path: &str) -> Part {
    let mut part = Part { header: [0; 512], content: Vec::new(), summed: true };
    part.put(0, path.as_bytes());
    part.put(100, b"0000644\x000000000\x000000000\x0000000000000\x0000000000000\0");
    part.put(156, &[flag]);
    part.put(257, b"ustar\x0000");
    part.put(329, b"0000000\x000000000\0");
    part
}

pub fn file(path: &str, content: &[u8]) -> Part {
    part(b'0', path).holding(content)
}

pub fn directory(path: &str) -> Part {
    part(b'5', path)
}

pub fn symlink(path: &str, target: &str) -> Part {
    part(b'2', path).with(157, target.as_bytes())
}

pub fn hardlink(path: &str, target: &str) -> Part {
    part(b'1', path).with(157, target.as_bytes())
}

/// A PAX header with these records, their lengths right.
pub fn pax(records: &[(&str, &str)]) -> Part {
    let record = |(key, value): &(&str, &str)| {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).unwrap();
        format!("{length}{rest}")
    };
    part(b'x', "PaxHeader").holding(records.iter().map(record).collect::<String>().as_bytes())
}

/// GNU's header for a long name (`L`) or a long target (`K`).
pub fn long(flag: u8, name: &str) -> Part {
    gnu(part(flag, "././@LongLink").holding(format!("{name}\0").as_bytes()))
}

pub fn gnu(part: Part) -> Part {
    part.with(257, b"ustar  \0")
}

impl Part {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.put(at, bytes);
        self
    }

    pub fn holding(self, content: &[u8]) -> Self {
        let mut part = self.with(124, format!("{:011o}\0", content.len()).as_bytes());
        part.content = content.to_vec();
        part
    }

    /// Another size than the content has.
    pub fn sized(self, size: &[u8; 12]) -> Self {
        self.with(124, size)
    }

    pub fn unsummed(mut self) -> Self {
        self.summed = false;
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut header = self.header;
        if self.summed {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(&self.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

/// The parts, without an end.
pub fn open_ended(parts: &[Part]) -> Vec<u8> {
    parts.iter().flat_map(Part::bytes).collect()
}

pub fn tar(parts: &[Part]) -> Vec<u8> {
    let mut bytes = open_ended(parts);
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}
