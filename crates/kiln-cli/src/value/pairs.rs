//! `KEY=VALUE` in its three uses: build arguments, labels, annotations.

use super::Parsed;

/// A `--build-arg`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BuildArg {
    /// `NAME=VALUE`.
    Given(String, String),
    /// `NAME`: its value is that of the environment, if it has one.
    FromEnvironment(String),
}

/// Parses `NAME=VALUE` or `NAME`.
pub(crate) fn build_arg(text: &str) -> Parsed<BuildArg> {
    let arg = match text.split_once('=') {
        Some((name, value)) => BuildArg::Given(name.to_owned(), value.to_owned()),
        None => BuildArg::FromEnvironment(text.to_owned()),
    };
    let (BuildArg::Given(name, _) | BuildArg::FromEnvironment(name)) = &arg;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err("expected NAME=VALUE, or NAME to take the value from the environment".to_owned());
    }
    Ok(arg)
}

/// Parses `KEY=VALUE`; a key alone has an empty value, as in Docker.
pub(crate) fn label(text: &str) -> Parsed<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.trim().is_empty() {
        return Err("expected KEY=VALUE".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Parses `[manifest:]KEY=VALUE`; there is no index that other annotations could go to.
pub(crate) fn annotation(text: &str) -> Parsed<(String, String)> {
    let Some((key, value)) = text.split_once('=') else {
        return Err("expected KEY=VALUE".to_owned());
    };
    let key = match key.split_once(':') {
        Some(("manifest", key)) => key,
        Some((level, _)) if is_level(level) => {
            return Err(format!("`{level}` annotations are not supported: kiln sets those of the manifest"));
        }
        _ => key,
    };
    if key.trim().is_empty() {
        return Err("expected KEY=VALUE".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Recognises what `docker buildx` takes before the colon: levels by commas, each with an optional platform.
fn is_level(text: &str) -> bool {
    let words = ["manifest", "index", "manifest-descriptor", "index-descriptor"];
    text.split(',').all(|level| words.contains(&level.split('[').next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_args_may_come_from_the_environment() {
        let given = |name: &str, value: &str| Ok(BuildArg::Given(name.to_owned(), value.to_owned()));
        assert_eq!(build_arg("A=b=c"), given("A", "b=c"));
        assert_eq!(build_arg("A="), given("A", ""));
        assert_eq!(build_arg("A"), Ok(BuildArg::FromEnvironment("A".to_owned())));
        assert!(build_arg("=x").is_err());
        assert!(build_arg("A B=x").is_err());
    }

    #[test]
    fn labels_may_be_empty_and_annotations_may_not() {
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(label("a.b=c=d"), pair("a.b", "c=d"));
        assert_eq!(label("a"), pair("a", ""));
        assert!(label("=a").is_err());
        assert_eq!(annotation("a=b"), pair("a", "b"));
        assert_eq!(annotation("manifest:a=b"), pair("a", "b"));
        assert_eq!(annotation("urn:x=b"), pair("urn:x", "b"));
        assert!(annotation("index:a=b").unwrap_err().contains("`index` annotations are not supported"));
        assert!(annotation("manifest[linux/amd64],index:a=b").is_err());
        assert!(annotation("a").is_err());
    }
}
