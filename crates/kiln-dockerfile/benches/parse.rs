//! Speed of the parser: `cargo bench -p kiln-dockerfile --bench parse`.
//!
//! Prints megabytes per second for a file of ten megabytes that has every instruction. Best of five.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

/// One stage with the forms that real files have.
const STAGE: &str = "# a stage\nFROM alpine:3.20 AS build\nARG VERSION=1.2 NAME=\"a b\"\nENV PATH=/app/bin:$PATH A=b\n\
RUN --mount=type=cache,target=/root/.cache,sharing=locked apk add --no-cache git \\\n    make \\\n # why\n    gcc\n\
COPY --from=0 --chown=1:2 src/*.c include /src/\nCOPY <<EOF /etc/config\nkey=$VERSION\nother=value\nEOF\n\
HEALTHCHECK --interval=30s CMD [\"curl\", \"-f\", \"http://localhost/\"]\nLABEL org.example.a=\"b c\" d=e\n\
EXPOSE 80 8000-8010/tcp\nENTRYPOINT [\"/app/run\", \"--serve\"]\nCMD echo hello\n";

const BYTES: usize = 10_000_000;

fn main() -> io::Result<()> {
    let text = STAGE.repeat(BYTES / STAGE.len());
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let start = Instant::now();
        let (file, diagnostics) = kiln_dockerfile::parse(&text);
        best = best.min(start.elapsed());
        assert!(diagnostics.iter().all(|found| !found.is_error()) && !file.stages.is_empty());
    }
    let rate = text.len() as f64 / 1e6 / best.as_secs_f64();
    writeln!(io::stdout(), "{} MB in {best:?}: {rate:.1} MB/s", text.len() / 1_000_000)
}
