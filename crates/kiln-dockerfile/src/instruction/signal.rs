//! Names of Linux signals.

/// The signals with fixed numbers, in the order of their numbers from 1.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first and last real-time signals that programs may use.
const REAL_TIME: (u32, u32) = (34, 64);

/// Returns the number of a signal written as a number, `SIGTERM` or `TERM`, in any case; none when there is
/// no such signal. `RTMIN+n` and `RTMAX-n` are the real-time signals.
#[must_use]
pub fn parse_signal(text: &str) -> Option<u32> {
    if let Ok(number) = text.parse::<u32>() {
        return (number > 0).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return u32::try_from(index + 1).ok();
    }
    let (first, last) = REAL_TIME;
    match name {
        "IOT" => Some(6),
        "CLD" => Some(17),
        "POLL" => Some(29),
        "UNUSED" => Some(31),
        "RTMIN" => Some(first),
        "RTMAX" => Some(last),
        _ => {
            // Each of them has one name: the nearer end counts.
            let from_first = (1..=15).find(|offset| name == format!("RTMIN+{offset}"));
            let from_last = (1..=14).find(|offset| name == format!("RTMAX-{offset}"));
            from_first.map(|offset| first + offset).or(from_last.map(|offset| last - offset))
        }
    }
}

/// Returns the signal that a misspelt name may have been meant to be.
pub(super) fn similar_signal(text: &str) -> Option<String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    crate::suggest::suggest(name, &NAMES).map(|near| format!("SIG{near}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        let check = |text: &str, expect: Option<u32>| assert_eq!(parse_signal(text), expect, "{text}");
        check("SIGTERM", Some(15));
        check("term", Some(15));
        check("SigKill", Some(9));
        check("9", Some(9));
        check("SIGSYS", Some(31));
        check("SIGIO", Some(29));
        check("POLL", Some(29));
        check("RTMIN", Some(34));
        check("SIGRTMIN+3", Some(37));
        check("SIGRTMAX-14", Some(50));
        check("sigrtmin+15", Some(49));
        check("SIGRTMIN+16", None);
        check("SIGRTMAX-15", None);
        check("SIGRTMIN+0", None);
        check("SIGRTMIN+03", None);
        check("SIGRTMIN+99", None);
        check("SIGRTMAX-99", None);
        check("0", None);
        check("-1", None);
        check("", None);
        check("SIGFOO", None);
    }
}
