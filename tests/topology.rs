//! Every store over every way to reach a server: one, Sentinel, Cluster, an application's own pool; and
//! what a caller sees when servers fail, move, or refuse.

mod harness;
mod support;

/// One file for each topology. `cfg(test)` tells clippy that helpers may unwrap, too.
#[cfg(test)]
#[path = "topology_tests"]
mod tests {
    mod cluster;
    mod deadlines;
    mod idle;
    mod lazy;
    mod load;
    mod moves;
    mod pool;
    mod replicas;
    mod sentinel;
    mod standalone;
    mod tour;
}
