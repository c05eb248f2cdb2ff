//! Paths inside a root, with the rights of each lane.

use crate::cases::Case;

pub(crate) const ALL: &[Case] = &[];
