//! placeholder
#![cfg_attr(docsrs, feature(doc_cfg))]
pub mod store;
