//! The test support, tested: a helper that lies makes every test that leans on it worthless.

// By path, as `mod support;` here would mean this file.
#[path = "support/mod.rs"]
mod support;

/// One file for each part of the support. `cfg(test)` tells clippy that helpers may unwrap, too.
#[cfg(test)]
#[path = "support_tests"]
mod tests {
    mod cluster;
    mod http;
    mod process;
    mod proxy;
    mod sentinel;
    mod server;
}
