//! How a specification and its answers cross the control socket: a length, then JSON.
//!
//! Paths, arguments and file contents are bytes, and JSON has none. Each byte becomes the character with that number
//! (Latin-1), which keeps ordinary paths readable and every byte exact. Nothing of it is ever written to a disk.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A message longer than this is a bug, not a specification: 1 GiB of inlined file contents.
const LONGEST: u64 = 1 << 30;

/// Writes one message.
pub(crate) fn send(mut to: impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(body.len() + 8);
    frame.extend_from_slice(&(body.len() as u64).to_le_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)
}

/// Reads one message; `None` when the other side has closed.
pub(crate) fn receive<T: DeserializeOwned>(mut from: impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 8];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u64::from_le_bytes(length);
    if length > LONGEST {
        return Err(io::Error::other("a message on the control socket is too long"));
    }
    let mut body = Vec::new();
    from.take(length).read_to_end(&mut body)?;
    serde_json::from_slice(&body).map(Some).map_err(io::Error::other)
}

fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn decode<E: serde::de::Error>(text: &str) -> Result<Vec<u8>, E> {
    text.chars()
        .map(|character| u8::try_from(u32::from(character)))
        .collect::<Result<_, _>>()
        .map_err(|_| E::custom("a byte string holds a character above 255"))
}

/// A path, argument or content as bytes.
#[derive(Clone)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        decode(&String::deserialize(from)?).map(Self)
    }
}

/// Declares a `#[serde(with = …)]` module for a type that is made of bytes.
macro_rules! as_bytes {
    ($name:ident, $type:ty, $to:expr, $from:expr) => {
        pub(crate) mod $name {
            use super::*;
            pub(crate) fn serialize<S: Serializer>(value: &$type, to: S) -> Result<S::Ok, S::Error> {
                let convert: fn(&$type) -> _ = $to;
                convert(value).serialize(to)
            }
            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
                let convert: fn(_) -> Result<$type, D::Error> = $from;
                convert(Deserialize::deserialize(from)?)
            }
        }
    };
}

fn of_path(path: &Path) -> Bytes {
    Bytes(path.as_os_str().as_bytes().to_vec())
}

fn to_path(bytes: Bytes) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.0))
}

as_bytes!(bytes, Vec<u8>, |value| Bytes(value.clone()), |bytes: Bytes| Ok(bytes.0));
as_bytes!(path, PathBuf, |value| of_path(value), |bytes: Bytes| Ok(to_path(bytes)));
as_bytes!(path_option, Option<PathBuf>, |value| value.as_deref().map(of_path), |bytes: Option<Bytes>| Ok(
    bytes.map(to_path)
));
as_bytes!(
    paths,
    Vec<PathBuf>,
    |value| value.iter().map(|path| of_path(path)).collect::<Vec<_>>(),
    |list: Vec<Bytes>| Ok(list.into_iter().map(to_path).collect())
);
as_bytes!(
    strings,
    Vec<OsString>,
    |value| value.iter().map(|word| Bytes(word.as_bytes().to_vec())).collect::<Vec<_>>(),
    |list: Vec<Bytes>| Ok(list.into_iter().map(|word| OsString::from_vec(word.0)).collect())
);
as_bytes!(
    pairs,
    Vec<(OsString, OsString)>,
    |value| {
        value
            .iter()
            .map(|(name, value)| (Bytes(name.as_bytes().to_vec()), Bytes(value.as_bytes().to_vec())))
            .collect::<Vec<_>>()
    },
    |list: Vec<(Bytes, Bytes)>| {
        Ok(list
            .into_iter()
            .map(|(name, value)| (OsString::from_vec(name.0), OsString::from_vec(value.0)))
            .collect())
    }
);
as_bytes!(
    files,
    Vec<(PathBuf, Vec<u8>)>,
    |value| value.iter().map(|(path, content)| (of_path(path), Bytes(content.clone()))).collect::<Vec<_>>(),
    |list: Vec<(Bytes, Bytes)>| {
        Ok(list.into_iter().map(|(path, content)| (to_path(path), content.0)).collect())
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_socket() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Message {
            #[serde(with = "bytes")]
            content: Vec<u8>,
        }
        let message = Message { content: (0..=255).collect() };
        let mut wire = Vec::new();
        send(&mut wire, &message).unwrap();
        assert_eq!(receive::<Message>(wire.as_slice()).unwrap(), Some(message));
    }

    #[test]
    fn a_closed_socket_is_no_message() {
        assert_eq!(receive::<u8>([].as_slice()).unwrap(), None);
    }
}
