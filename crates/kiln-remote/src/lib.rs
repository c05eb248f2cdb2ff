//! Images that live elsewhere: registries, authentication, transfers
