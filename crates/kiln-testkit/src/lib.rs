//! Test environment, fixtures and image assertions for kiln's own tests
