//! `kiln images` and `kiln rmi`.

use kiln::Error;
use kiln::oci::{Digest, Reference};
use kiln::store::{Store, StoredImage};
use serde::Serialize;

use super::enter_store;
use crate::args::{ImagesArgs, RmiArgs};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::value::ListFormat;
use crate::{stdout, text};

/// So many digits of a digest name an image; fewer could be a name.
const SHORT_DIGEST: usize = 12;

/// One image as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Row {
    /// Full name, absent for an image that was built without one.
    name: Option<String>,
    /// Digest of the manifest.
    digest: Digest,
    /// Platform, unknown when a document of the image is missing or damaged.
    platform: Option<String>,
    /// When it was made, RFC 3339.
    created: Option<String>,
    /// Compressed size of config and layers in bytes.
    size: Option<u64>,
}

/// Lists the images of the store, the latest first.
pub(super) fn list(args: &ImagesArgs, env: &Env) -> Outcome<Exit> {
    let store = Store::open(&enter_store(&args.store, env)?)?;
    let rows: Vec<Row> = store.images()?.iter().rev().map(|image| row(&store, image)).collect();
    let text = match args.format {
        ListFormat::Table => table(&rows),
        ListFormat::Json => serde_json::to_string_pretty(&rows)
            .map(|text| format!("{text}\n"))
            .map_err(|e| Error::internal("cannot write the list as JSON").because(e))?,
    };
    stdout::print(&text)?;
    Ok(Exit::Success)
}

fn row(store: &Store, image: &StoredImage) -> Row {
    let documents = store.image_documents(&image.descriptor);
    let config = documents.as_ref().map(|(_, config)| config);
    let manifest = documents.as_ref().and_then(|(document, _)| document.manifest());
    Row {
        name: image.name.as_ref().map(ToString::to_string),
        digest: image.descriptor.digest.clone(),
        platform: config.map(|config| {
            let variant = config.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
            format!("{}/{}{variant}", config.os, config.architecture)
        }),
        created: config.and_then(|config| config.created.clone()),
        size: manifest.map(|m| m.config.size + m.layers.iter().map(|layer| layer.size).sum::<u64>()),
    }
}

fn table(rows: &[Row]) -> String {
    let unknown = || "-".to_owned();
    let mut cells = vec![["NAME", "DIGEST", "PLATFORM", "CREATED", "SIZE"].map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let name = row.name.as_ref().and_then(|name| name.parse::<Reference>().ok());
        [
            name.map_or_else(unknown, |name| name.familiar()),
            row.digest.short().to_owned(),
            row.platform.clone().unwrap_or_else(unknown),
            row.created.clone().unwrap_or_else(unknown),
            row.size.map_or_else(unknown, text::size),
        ]
    }));
    text::table(&cells)
}

/// Removes images; each name that is none is reported, and the others are removed.
pub(super) fn remove(args: &RmiArgs, env: &Env) -> Outcome<Exit> {
    let store = Store::open(&enter_store(&args.store, env)?)?;
    let mut missing = Vec::new();
    for name in &args.names {
        let found = select(&store.images()?, name);
        if found.is_empty() {
            missing.push(Error::input(format!("there is no image `{name}` in the store")));
        }
        for image in found {
            store.remove_image(&image)?;
            let shown = image
                .name
                .as_ref()
                .map_or_else(|| image.descriptor.digest.to_string(), kiln::oci::Reference::familiar);
            stdout::print(&format!("{shown}\n"))?;
        }
    }
    let mut missing = missing.into_iter();
    match missing.next() {
        None => Ok(Exit::Success),
        Some(mut error) => {
            error.also.extend(missing);
            if error.hints.is_empty() {
                error = error.hint("`kiln images` lists what there is");
            }
            Err(error.into())
        }
    }
}

/// Returns the image of this name or, when there is none, those whose digest begins so.
fn select(images: &[StoredImage], wanted: &str) -> Vec<StoredImage> {
    let name = wanted.parse::<Reference>().ok();
    let named = images.iter().find(|image| image.name.is_some() && image.name == name);
    if let Some(image) = named {
        return vec![image.clone()];
    }
    let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    if digits.len() < SHORT_DIGEST {
        return Vec::new();
    }
    images.iter().filter(|image| image.descriptor.digest.hex().starts_with(digits)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use kiln::oci::Descriptor;

    use super::*;

    fn image(name: Option<&str>, content: &[u8]) -> StoredImage {
        StoredImage { name: name.map(|n| n.parse().unwrap()), descriptor: Descriptor::of("x/y", content) }
    }

    #[test]
    fn images_are_found_by_name_or_digest() {
        let images = [image(Some("app"), b"1"), image(Some("app:2"), b"1"), image(None, b"2")];
        let check =
            |wanted: &str, expect: usize| assert_eq!(select(&images, wanted).len(), expect, "{wanted}");
        check("app", 1);
        check("docker.io/library/app:latest", 1);
        check("other", 0);
        check(images[0].descriptor.digest.as_str(), 2);
        check(images[2].descriptor.digest.short(), 1);
        check(&images[2].descriptor.digest.hex()[..8], 0);
    }

    #[test]
    fn the_table_is_aligned() {
        let digest = Digest::sha256(b"");
        let rows = [
            Row {
                name: Some("docker.io/library/app:latest".to_owned()),
                digest: digest.clone(),
                platform: Some("linux/amd64".to_owned()),
                created: Some("2024-01-01T00:00:00Z".to_owned()),
                size: Some(1_234_567),
            },
            Row { name: None, digest, platform: None, created: None, size: None },
        ];
        assert_eq!(
            table(&rows),
            "\
NAME        DIGEST        PLATFORM     CREATED               SIZE
app:latest  e3b0c44298fc  linux/amd64  2024-01-01T00:00:00Z  1.2 MB
-           e3b0c44298fc  -            -                     -
"
        );
    }
}
