//! Whether a program is static: an ELF file (System V ABI, chapters 4 and 5) that names no loader.
//!
//! ```text
//! 0  7f 'E' 'L' 'F'   4  class: 2 = 64 bit   5  data: 1 = little-endian
//! 32 offset of the program headers (u64)   54 size of one (u16)   56 how many (u16)
//! program header: 0 type (u32), 3 = PT_INTERP, the path of the loader
//! ```

const PT_INTERP: u32 = 3;

/// Tells whether the program in `bytes` runs without a loader; `None` when it is no 64-bit little-endian ELF file.
pub(crate) fn is_static(bytes: &[u8]) -> Option<bool> {
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(bytes.get(32..40)?.try_into().ok()?)).ok()?;
    let size = usize::from(u16::from_le_bytes(bytes.get(54..56)?.try_into().ok()?));
    let count = usize::from(u16::from_le_bytes(bytes.get(56..58)?.try_into().ok()?));
    let mut interpreted = false;
    for number in 0..count {
        let at = table.checked_add(number.checked_mul(size)?)?;
        let kind = bytes.get(at..at.checked_add(4)?)?;
        interpreted |= u32::from_le_bytes(kind.try_into().ok()?) == PT_INTERP;
    }
    Some(!interpreted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(types: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = u8::try_from(types.len()).unwrap();
        for kind in types {
            bytes.extend_from_slice(&kind.to_le_bytes());
            bytes.extend_from_slice(&[0; 52]);
        }
        bytes
    }

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        assert_eq!(is_static(&file(&[6, 1, 2])), Some(true));
        assert_eq!(is_static(&file(&[6, 3, 1])), Some(false));
        assert_eq!(is_static(&file(&[1])[..64]), None);
        assert_eq!(is_static(b"#!/bin/sh\n"), None);
    }
}
