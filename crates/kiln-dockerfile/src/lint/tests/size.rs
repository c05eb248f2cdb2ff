//! Time: linear in the length of the file.

use super::*;

/// A file of stages as people write them, with something to find in each.
fn stages(length: usize) -> String {
    let mut text = String::from("ARG BASE=scratch\nFROM $BASE AS s0\nENV A=1\n");
    for number in 1.. {
        if text.len() >= length {
            break;
        }
        let last = number - 1;
        let stage = format!(
            "FROM $BASE AS s{number}\nARG TOKEN\nENV V{number} x y\nCOPY --from=s{last} $A $V{number} /d\n\
             WORKDIR rel\nCMD node server.js\nRUN apt-get update && apt-get install -y a b c\n"
        );
        text.push_str(&stage);
    }
    text
}

fn seconds(source: &str) -> f64 {
    let start = std::time::Instant::now();
    let findings = report(source, &Facts::default()).findings.len();
    assert!(findings * 40 > source.len() / 10, "{findings}");
    start.elapsed().as_secs_f64()
}

/// Without optimisation a twentieth of the length has to do; the bound is for a busy machine.
const LENGTH: usize = if cfg!(debug_assertions) { 512 << 10 } else { 10 << 20 };
const BOUND: f64 = 20.0;

#[test]
fn large_files_are_checked_in_time() {
    let took = seconds(&stages(LENGTH));
    assert!(took < BOUND, "{took} s for {LENGTH} bytes");
}

#[test]
fn one_stage_with_many_variables_is_no_worse() {
    let line = |number| format!("ENV V{number}=1\nCOPY $V{number} $UNDEFINED /{number}\n");
    let text = format!("FROM scratch\n{}", (0..LENGTH / 100).map(line).collect::<String>());
    let took = seconds(&text);
    assert!(took < BOUND, "{took} s for {} bytes", text.len());
}
