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
            let number = match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
                (Some(offset), _) => first.checked_add(offset.parse().ok()?)?,
                (None, Some(offset)) => last.checked_sub(offset.parse().ok()?)?,
                (None, None) => return None,
            };
            (first..=last).contains(&number).then_some(number)
        }
    }
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
        check("SIGRTMIN+99", None);
        check("SIGRTMAX-99", None);
        check("0", None);
        check("-1", None);
        check("", None);
        check("SIGFOO", None);
    }
}
