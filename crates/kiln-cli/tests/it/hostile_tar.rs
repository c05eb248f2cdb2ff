//! Tar archives made field by field, so that every one of them can be wrong.

/// A header whose checksum is still to be made.
#[derive(Clone)]
pub(crate) struct Header([u8; 512]);

impl Header {
    /// Returns a ustar header of root's, with mode 0644.
    pub(crate) fn new(name: &[u8], flag: u8, size: u64) -> Self {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name);
        let mode: &[u8] = if flag == b'5' { b"0000755\0" } else { b"0000644\0" };
        Self(block)
            .set(100, mode)
            .set(108, b"0000000\0")
            .set(116, b"0000000\0")
            .set(124, format!("{size:011o}\0").as_bytes())
            .set(136, b"00000000000\0")
            .set(156, &[flag])
            .set(257, b"ustar\x0000")
    }

    pub(crate) fn set(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Returns the block with its checksum.
    pub(crate) fn block(self) -> [u8; 512] {
        let mut block = self.set(148, b"        ");
        let sum: u32 = block.0.iter().map(|b| u32::from(*b)).sum();
        block = block.set(148, format!("{sum:06o}\0 ").as_bytes());
        block.0
    }
}

/// An archive that grows.
#[derive(Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds bytes as they are.
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds a header and content, padded to a block.
    pub(crate) fn with(mut self, header: Header, content: &[u8]) -> Self {
        self.0.extend_from_slice(&header.block());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.with(Header::new(name.as_bytes(), b'0', content.len() as u64), content.as_bytes())
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.with(Header::new(name.as_bytes(), b'5', 0), &[])
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.link(b'2', name, target)
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.link(b'1', name, target)
    }

    fn link(self, flag: u8, name: &str, target: &str) -> Self {
        // The field has room for a hundred bytes; what is longer goes into a record.
        match target.len() {
            0..=100 => self.with(Header::new(name.as_bytes(), flag, 0).set(157, target.as_bytes()), &[]),
            _ => self
                .pax(&[("linkpath", target.as_bytes())])
                .with(Header::new(name.as_bytes(), flag, 0).set(157, b"x"), &[]),
        }
    }

    /// Adds a character or block device.
    pub(crate) fn device(self, flag: u8, name: &str, major: u32, minor: u32) -> Self {
        let header = Header::new(name.as_bytes(), flag, 0)
            .set(329, format!("{major:07o}\0").as_bytes())
            .set(337, format!("{minor:07o}\0").as_bytes());
        self.with(header, &[])
    }

    /// Adds records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.with(Header::new(b"pax", b'x', body.len() as u64), &body)
    }

    /// Adds a GNU long name or link for the next entry.
    pub(crate) fn long(self, flag: u8, name: &[u8]) -> Self {
        self.with(Header::new(b"././@LongLink", flag, name.len() as u64), name)
    }

    /// Closes the archive.
    pub(crate) fn end(self) -> Vec<u8> {
        self.bytes(&[0; 1024]).0
    }
}

/// Returns one record with its length.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}
