//! What must hold on every Node version and both engines. CI runs `cargo test core` again with
//! the oldest and the newest Node (ROUTER_TEST_NODE).

mod bodies;
mod cluster;
mod node_cluster;
mod sessions;
