//! `--filter` of `kiln prune`, in the form that `docker buildx prune` has.

use std::time::Duration;

use kiln::store::EntryKind;

use super::{Parsed, duration};

/// What has to hold of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    /// It was not used for so long.
    Until(Duration),
    /// It is of this kind.
    Type(EntryKind),
    /// It is a cache mount of this id.
    Id(String),
}

/// The keys of filters.
const KEYS: [&str; 3] = ["until", "type", "id"];

/// Parses `until=24h`, `type=KIND` or `id=ID`.
pub(crate) fn filter(text: &str) -> Parsed<Filter> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(format!("expected KEY=VALUE, where the key is one of {}", KEYS.join(", ")));
    };
    match key {
        "until" => duration(value).map(Filter::Until),
        "type" => kind(value).map(Filter::Type),
        "id" if value.is_empty() => Err("expected the id of a cache mount after `id=`".to_owned()),
        "id" => Ok(Filter::Id(value.to_owned())),
        _ => Err(unknown("filter", key, &KEYS)),
    }
}

/// A builder's history bounds itself, so it is no kind that can be asked for.
fn kind(word: &str) -> Parsed<EntryKind> {
    let kinds = EntryKind::ALL.into_iter().filter(|kind| *kind != EntryKind::History);
    let names: Vec<&str> = kinds.clone().map(EntryKind::name).collect();
    kinds.into_iter().find(|kind| kind.name() == word).ok_or_else(|| unknown("type", word, &names))
}

fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    let meant = kiln::dockerfile::suggest(word, known);
    let meant = meant.map(|meant| format!(", did you mean `{meant}`?")).unwrap_or_default();
    format!("there is no {what} `{word}`{meant}; there are {}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_have_a_key_and_a_value() {
        assert_eq!(filter("until=24h"), Ok(Filter::Until(Duration::from_secs(86_400))));
        assert_eq!(filter("type=cache-mount"), Ok(Filter::Type(EntryKind::CacheMount)));
        assert_eq!(filter("id=/root/.cache=x"), Ok(Filter::Id("/root/.cache=x".to_owned())));
        for wrong in ["", "type", "until=1", "type=history", "type=", "id=", "label=x"] {
            assert!(filter(wrong).is_err(), "{wrong}");
        }
    }
}
