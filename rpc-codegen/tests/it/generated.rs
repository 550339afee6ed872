//! The golden files as modules, as a service would have them.
#![deny(warnings)]
#![allow(clippy::doc_markdown, dead_code)]

pub mod route_guide {
    include!("../golden/route_guide.rs");
}
pub mod keywords {
    include!("../golden/keywords.r#type.r#match.rs");
}
pub mod methods {
    include!("../golden/methods.rs");
}
pub mod same_name {
    include!("../golden/same_name.rs");
}
pub mod empty_package {
    include!("../golden/_.rs");
}
pub mod imports {
    pub mod common {
        include!("../golden/imports.common.rs");
    }
    pub mod store {
        include!("../golden/imports.store.rs");
        pub mod deep {
            pub mod down {
                include!("../golden/imports.store.deep.down.rs");
            }
        }
    }
}
pub mod well_known {
    include!("../golden/well_known.rs");
}
pub mod deprecated {
    include!("../golden/deprecated.rs");
}
pub mod idempotency {
    include!("../golden/idempotency.rs");
}
pub mod client_only {
    include!("../golden/client_only.rs");
}
pub mod server_only {
    include!("../golden/server_only.rs");
}
pub mod extern_path {
    include!("../golden/extern_path.rs");
}
pub mod bytes {
    include!("../golden/bytes.rs");
}
pub mod proto2 {
    include!("../golden/proto2.rs");
}
pub mod comments {
    include!("../golden/comments.rs");
}

/// What `extern_path` names.
#[derive(Clone, PartialEq, Eq, Hash, rpc_core::prost::Message)]
#[prost(prost_path = "rpc_core::prost")]
pub struct Mine {
    #[prost(string, tag = "1")]
    pub said: String,
}
