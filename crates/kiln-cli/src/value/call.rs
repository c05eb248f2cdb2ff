//! `--call`: what is asked about a build in place of building.

use super::Parsed;

/// What is asked, how it is printed, and whether findings count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    /// What is asked.
    pub(crate) method: Method,
    /// How it is printed.
    pub(crate) format: CallFormat,
    /// Whether the exit code says nothing about findings.
    pub(crate) ignore_status: bool,
}

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// Nothing: a build.
    Build,
    /// What the build checks find.
    Check,
    /// What the target can be given.
    Outline,
    /// The stages.
    Targets,
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFormat {
    /// For people.
    Text,
    /// In the shape of BuildKit.
    Json,
}

/// Parses `METHOD[,format=json][,ignorestatus=true]`.
pub(crate) fn call(text: &str) -> Parsed<Call> {
    let mut method = None;
    let mut call = Call { method: Method::Build, format: CallFormat::Text, ignore_status: false };
    for field in text.split(',') {
        match field.split_once('=') {
            None if method.is_some() => return Err(format!("`{field}` is a second method")),
            None => {
                method = Some(match field {
                    "build" => Method::Build,
                    // The old name of it.
                    "check" | "lint" => Method::Check,
                    "outline" => Method::Outline,
                    "targets" => Method::Targets,
                    _ => return Err("expected `check`, `outline`, `targets` or `build`".to_owned()),
                });
            }
            Some(("format", "json")) => call.format = CallFormat::Json,
            Some(("format", "text")) => call.format = CallFormat::Text,
            Some(("format", _)) => return Err("expected `format=text` or `format=json`".to_owned()),
            Some(("ignorestatus", value)) => {
                call.ignore_status =
                    value.parse().map_err(|_| "expected `ignorestatus=true` or `ignorestatus=false`")?;
            }
            Some((key, _)) => {
                return Err(format!("unknown key `{key}`: expected `format` or `ignorestatus`"));
            }
        }
    }
    method.map(|method| Call { method, ..call }).ok_or_else(|| "there is no method".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        let check = |text: &str, method: Method, format: CallFormat, ignore_status: bool| {
            assert_eq!(call(text), Ok(Call { method, format, ignore_status }), "{text}");
        };
        check("check", Method::Check, CallFormat::Text, false);
        check("lint,format=json", Method::Check, CallFormat::Json, false);
        check("format=json,outline", Method::Outline, CallFormat::Json, false);
        check("targets,format=text,ignorestatus=true", Method::Targets, CallFormat::Text, true);
        check("build", Method::Build, CallFormat::Text, false);
        for text in ["", "chek", "check,outline", "check,format=xml", "check,x=y", "check,ignorestatus=2"] {
            assert!(call(text).is_err(), "{text}");
        }
    }
}
