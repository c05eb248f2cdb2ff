//! Contexts of any size, the same bytes on every machine.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use crate::Outcome;

/// Bytes of each of many files.
const SMALL: usize = 2 << 10;
/// Files of a directory.
const TOGETHER: u64 = 100;
/// Piece of a large file: one of noise, one of zeros, so that every block of the layer has some of both.
const PIECE: usize = 64 << 10;

/// Bytes without a pattern (xorshift64*).
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let next = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes();
            piece.copy_from_slice(&next[..piece.len()]);
        }
    }
}

/// Makes a context of `count` files below `src`.
pub(crate) fn files(context: &Path, count: u64) -> Outcome {
    for number in 0..count {
        if number % TOGETHER == 0 {
            std::fs::create_dir_all(context.join(format!("src/{}", number / TOGETHER)))?;
        }
        change(context, number, number)?;
    }
    Ok(std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY src /src\n")?)
}

/// Gives one of the files of a context other content.
pub(crate) fn change(context: &Path, number: u64, seed: u64) -> Outcome {
    let mut content = [0; SMALL];
    Noise::new(seed).fill(&mut content);
    let path = context.join(format!("src/{}/{}", number / TOGETHER, number % TOGETHER));
    Ok(std::fs::write(path, content)?)
}

/// Makes a context of one file, half of it zeros.
pub(crate) fn large(context: &Path, bytes: u64) -> Outcome {
    std::fs::create_dir_all(context)?;
    let mut file = File::create(context.join("large"))?;
    let mut pair = vec![0; 2 * PIECE];
    let mut noise = Noise::new(0);
    let mut left = usize::try_from(bytes)?;
    while left > 0 {
        noise.fill(&mut pair[..PIECE]);
        let now = left.min(pair.len());
        file.write_all(&pair[..now])?;
        left -= now;
    }
    Ok(std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY large /large\n")?)
}

/// Makes a context whose Dockerfile repeats an instruction; `{}` in it is its number.
pub(crate) fn steps(context: &Path, base: &str, instruction: &str, count: u64) -> Outcome {
    std::fs::create_dir_all(context)?;
    let mut text = format!("FROM {base}\n");
    for number in 0..count {
        writeln!(text, "{}", instruction.replace("{}", &number.to_string()))?;
    }
    std::fs::write(context.join("file"), "x\n")?;
    Ok(std::fs::write(context.join("Dockerfile"), text)?)
}
