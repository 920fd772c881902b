//! File descriptors: each connection takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Takes as many as the system lets the process have. The soft limit is 1,024 nearly everywhere, for the sake of programs
/// that use `select`; who does not is meant to raise it to the hard limit (systemd.exec(5), `LimitNOFILE=`).
pub fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // Not allowed where the hard limit is none, as on macOS: then it stays as it is.
    let _ = setrlimit(Resource::Nofile, raised);
}

/// How many the process may have open.
pub fn descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_as_high_as_it_may_be() {
        raise_descriptor_limit();
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(Some(descriptor_limit() as u64), hard);
    }
}
