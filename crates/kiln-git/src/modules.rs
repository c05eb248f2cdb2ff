//! Submodules: what `.gitmodules` says, and what an address relative to another means.

/// A line of `.gitmodules`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Submodule {
    /// Where it belongs.
    pub path: String,
    /// Where it is, perhaps relative to the repository that names it.
    pub url: String,
    /// Whether it says not to be checked out, `update = none`.
    pub skipped: bool,
}

/// Reads `.gitmodules`: sections `[submodule "name"]` with `path`, `url` and `update`.
///
/// It is the part of Git's configuration language that `git submodule add` writes: quotes, escapes and comments, but no
/// includes.
#[must_use]
pub fn submodules(text: &[u8]) -> Vec<Submodule> {
    let text = String::from_utf8_lossy(text);
    let mut found: Vec<Submodule> = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_start();
            inside = section.get(..9).is_some_and(|word| word.eq_ignore_ascii_case("submodule"));
            if inside {
                found.push(Submodule::default());
            }
            continue;
        }
        let (Some(module), Some((key, value))) = (found.last_mut().filter(|_| inside), line.split_once('='))
        else {
            continue;
        };
        let value = unquote(value.trim());
        match key.trim().to_ascii_lowercase().as_str() {
            "path" => module.path = value,
            "url" => module.url = value,
            "update" => module.skipped = value == "none",
            _ => {}
        }
    }
    found.retain(|m| !m.path.is_empty() && !m.url.is_empty());
    found
}

fn unquote(value: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' => out.extend(chars.next()),
            '#' | ';' if !quoted => break,
            c => out.push(c),
        }
    }
    if quoted || value.ends_with('"') { out } else { out.trim_end().to_owned() }
}

/// Returns the address of a submodule: `./` and `../` are relative to the address of its parent.
#[must_use]
pub fn absolute(parent: &str, url: &str) -> String {
    if !url.starts_with("./") && !url.starts_with("../") {
        return url.to_owned();
    }
    let mut base = parent.trim_end_matches('/').to_owned();
    let mut rest = url;
    loop {
        if let Some(tail) = rest.strip_prefix("../") {
            let start = base.find("://").map_or(0, |at| at + 3);
            match base[start..].rfind(['/', ':']) {
                Some(cut) if base.as_bytes()[start + cut] == b'/' => base.truncate(start + cut),
                // `git@host:repository`: the parent of the only component is the host.
                Some(cut) => {
                    base.truncate(start + cut);
                    return format!("{base}:{}", tail.trim_start_matches("./"));
                }
                None => {}
            }
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix("./") {
            rest = tail;
        } else {
            return format!("{base}/{rest}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gitmodules_are_read() {
        let text = b"[submodule \"a\"]\n\tpath = lib/a\n\turl = ../a.git # the library\n\
            [submodule \"b\"]\n\tpath = \"b c\"\n\turl=https://h/b.git\n\tupdate = none\n[other]\npath = x\n";
        let module =
            |path: &str, url: &str, skipped| Submodule { path: path.into(), url: url.into(), skipped };
        assert_eq!(
            submodules(text),
            [module("lib/a", "../a.git", false), module("b c", "https://h/b.git", true)]
        );
    }

    #[test]
    fn relative_addresses_start_at_the_parent() {
        let check = |parent: &str, url: &str, expect: &str| assert_eq!(absolute(parent, url), expect);
        check("https://h/g/p.git", "../a.git", "https://h/g/a.git");
        check("https://h/g/p.git", "../../x/a.git", "https://h/x/a.git");
        check("https://h/g/p.git", "./a.git", "https://h/g/p.git/a.git");
        check("git@h:g/p.git", "../a.git", "git@h:g/a.git");
        check("git@h:p.git", "../a.git", "git@h:a.git");
        check("https://h/p.git", "ssh://git@h/a.git", "ssh://git@h/a.git");
    }
}
