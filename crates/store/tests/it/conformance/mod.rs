//! What holds on every backend. Each test is written once and runs on all of them.

macro_rules! on_every_backend {
    ($($name:ident)*) => {
        mod in_memory {
            $(#[test] fn $name() { super::$name(&crate::fixture::Setup::<crate::fixture::InMemory>::new()); })*
        }
        mod on_sqlite {
            $(#[test] fn $name() { super::$name(&crate::fixture::Setup::<crate::fixture::OnDisk>::new()); })*
        }
    };
}

mod following;
mod keys;
mod records;
