//! The `Location`, `Range` and `Link` headers that registries answer with.

use hyper::Uri;
use hyper::header::{HeaderMap, LINK, LOCATION};

/// Returns what `location` means, seen from `base`.
pub(crate) fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    // Of any scheme: whether it may be called is for others to say.
    let scheme_end = location.find("://").unwrap_or(0);
    if scheme_end > 0 && location[..scheme_end].bytes().all(|b| b.is_ascii_alphanumeric()) {
        return location.parse().ok();
    }
    let text = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let path = base.path();
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        if location.starts_with('?') {
            format!("{scheme}://{authority}{path}{location}")
        } else {
            format!("{scheme}://{authority}{parent}/{location}")
        }
    };
    text.parse().ok()
}

/// Returns the `Location` of an answer to a request for `base`.
pub(crate) fn of(base: &Uri, headers: &HeaderMap) -> Option<Uri> {
    resolve(base, headers.get(LOCATION)?.to_str().ok()?)
}

/// Returns where the session of an upload goes on.
///
/// A registry behind a proxy that ends TLS may call itself by `http`; it is still reached as it was before.
pub(crate) fn session(base: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let next = of(base, headers)?;
    let downgraded = base.scheme_str() == Some("https") && next.scheme_str() == Some("http");
    if downgraded && next.host() == base.host() {
        let rest = next.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str);
        return format!("https://{}{rest}", base.authority()?).parse().ok();
    }
    Some(next)
}

/// Tells whether two URLs lead to the same server, which may then see the same credentials.
pub(crate) fn same_server(a: &Uri, b: &Uri) -> bool {
    let port =
        |uri: &Uri| uri.port_u16().or(if uri.scheme_str() == Some("https") { Some(443) } else { Some(80) });
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

/// Adds a parameter to the query of a URL.
pub(crate) fn with_query(url: &Uri, query: &str) -> Option<Uri> {
    let separator = if url.query().is_some() { '&' } else { '?' };
    format!("{url}{separator}{query}").parse().ok()
}

/// Returns the number of bytes that an upload's `Range: 0-N` says to be there.
///
/// Registries in use answer `0-0` both for nothing and for one byte; the smaller reading is the safe one.
pub(crate) fn received(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(hyper::header::RANGE)?.to_str().ok()?.trim();
    let range = text.strip_prefix("bytes=").unwrap_or(text);
    let (start, end) = range.split_once('-')?;
    let (start, end) = (start.parse::<u64>().ok()?, end.parse::<u64>().ok()?);
    if start != 0 {
        return None;
    }
    Some(if end == 0 { 0 } else { end + 1 })
}

/// Returns the first byte's position that a `Content-Range: bytes A-B/C` names.
pub(crate) fn content_start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(hyper::header::CONTENT_RANGE)?.to_str().ok()?;
    let range = text.trim().strip_prefix("bytes")?.trim_start();
    range.split('-').next()?.parse().ok()
}

/// Returns the next page that a `Link: <url>; rel="next"` names.
pub(crate) fn next_page(base: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.flat_map(|value| value.split(',')).find_map(|link| {
        let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
        is_next.then(|| url.to_owned())
    })?;
    resolve(base, &next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_seen_from_the_request() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/uploads/?x=1".parse().unwrap();
        let check = |location: &str, expect: &str| {
            assert_eq!(resolve(&base, location).unwrap().to_string(), expect);
        };
        check("https://s3.example/b?sig=1", "https://s3.example/b?sig=1");
        check("/v2/a/blobs/uploads/1?s=2", "https://r.example:5000/v2/a/blobs/uploads/1?s=2");
        check("//other.example/x", "https://other.example/x");
        check("1?s=2", "https://r.example:5000/v2/a/blobs/uploads/1?s=2");
        check("?s=2", "https://r.example:5000/v2/a/blobs/uploads/?s=2");
        check("?to=https://x", "https://r.example:5000/v2/a/blobs/uploads/?to=https://x");
        check("gopher://other.example/x", "gopher://other.example/x");
        assert_eq!(resolve(&base, "file:///etc/passwd"), None);
    }

    #[test]
    fn a_session_keeps_its_scheme() {
        let check = |location: &str, expect: &str| {
            let base: Uri = "https://r.example/v2/a".parse().unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, location.parse().unwrap());
            assert_eq!(session(&base, &headers).unwrap().to_string(), expect);
        };
        check("http://r.example/v2/a/1?s=2", "https://r.example/v2/a/1?s=2");
        check("https://r.example/v2/a/1", "https://r.example/v2/a/1");
    }

    #[test]
    fn servers_are_compared_with_their_ports() {
        let check = |a: &str, b: &str, expect: bool| {
            assert_eq!(same_server(&a.parse().unwrap(), &b.parse().unwrap()), expect, "{a} {b}");
        };
        check("https://a.example/x", "https://A.example:443/y", true);
        check("https://a.example/x", "http://a.example/x", false);
        check("https://a.example/x", "https://a.example:5000/x", false);
        check("https://a.example/x", "https://a.example.evil/x", false);
    }

    #[test]
    fn ranges_and_links_are_read() {
        let mut headers = HeaderMap::new();
        for (range, expect) in [("0-9", Some(10)), ("bytes=0-9", Some(10)), ("0-0", Some(0)), ("5-9", None)] {
            headers.insert(hyper::header::RANGE, range.parse().unwrap());
            assert_eq!(received(&headers), expect, "{range}");
        }
        headers.insert(LINK, "</v2/a/tags/list?last=b&n=2>; rel=\"next\"".parse().unwrap());
        let next = next_page(&"http://h:1/v2/a/tags/list".parse().unwrap(), &headers).unwrap();
        assert_eq!(next.to_string(), "http://h:1/v2/a/tags/list?last=b&n=2");
    }
}
