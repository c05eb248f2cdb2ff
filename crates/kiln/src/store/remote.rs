//! What is remembered of web servers, and files of git commits.

use std::path::PathBuf;
#[cfg(feature = "git")]
use std::{fs, path::Path};

use kiln_oci::Digest;

#[cfg(feature = "git")]
use crate::error::{FileContext as _, Result};
#[cfg(feature = "git")]
use crate::store::BOOT;
use crate::store::{Store, touch};

impl Store {
    /// Returns where it stands what the URL with this digest gave.
    pub(crate) fn http_record(&self, url: &Digest) -> PathBuf {
        let path = self.root().join("http").join(format!("{}.json", url.hex()));
        touch(&path);
        path
    }

    /// Returns the directory of a checkout, if it is here and can be trusted; it stays then.
    #[cfg(feature = "git")]
    pub(crate) fn git(&self, name: &str) -> Option<PathBuf> {
        let dir = self.using("git", name).ok()?;
        self.is_trusted(&dir).then_some(dir)
    }

    /// Gives the checkout in `work` its name; whoever calls holds the lock of that name.
    ///
    /// # Errors
    /// When it cannot be renamed.
    #[cfg(feature = "git")]
    pub(crate) fn commit_git(&self, work: &Path, name: &str) -> Result<()> {
        fs::write(work.join(BOOT), &self.inner.boot).on("write", work)?;
        let target = self.root().join("git").join(name);
        if target.exists() {
            // From before a reboot: not trusted, and nobody of this boot can be using it.
            let old = self.tmp_path();
            fs::rename(&target, &old).on("rename", &target)?;
        }
        self.publish(work, "git", name)
    }
}
