//! The dashboard and the alerts name metrics that exist.

use std::collections::BTreeSet;

use crate::sources::{product, read};

const SUFFIXES: [&str; 5] = ["_total", "_bucket", "_sum", "_count", "_info"];

/// Names as they are registered, without the suffixes of their types.
fn registered() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in product() {
        // `metrics.register("requests", …)` and `registry.register("testudo_build", …)`.
        for call in source.split(".register(").skip(1) {
            if let Some(name) = call
                .trim_start()
                .strip_prefix('"')
                .and_then(|rest| rest.split_once('"'))
            {
                names.insert(format!("testudo_{}", name.0.trim_start_matches("testudo_")));
            }
        }
        let literals = source
            .split('"')
            .filter(|text| text.starts_with("process_"));
        names.extend(literals.map(|text| text.trim_end_matches("_total").to_owned()));
    }
    assert!(
        names.len() >= 15,
        "metrics are registered in another way now: {names:?}"
    );
    names
}

/// Metrics that a page names, with what stands before each. `testudo_dataplane=debug` is a log filter.
fn named(page: &str) -> Vec<(&str, &str)> {
    let starts = page
        .match_indices("testudo_")
        .chain(page.match_indices("process_"));
    starts
        .filter_map(|(at, _)| {
            let rest = &page[at..];
            let end = rest
                .find(|c: char| !c.is_ascii_lowercase() && c != '_')
                .unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            (!after.starts_with('=')).then_some((&page[..at], name))
        })
        .collect()
}

#[test]
fn every_metric_of_dashboard_alerts_and_handbook_exists() {
    let registered = registered();
    for page in [
        "deploy/grafana/testudo.json",
        "deploy/prometheus/alerts.yml",
        "docs/operations.md",
    ] {
        let text = read(page);
        let named = named(&text);
        assert!(
            named.len() >= 10,
            "{page} names only {} metrics",
            named.len()
        );
        for (before, name) in named {
            let base = SUFFIXES
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name);
            assert!(
                registered.contains(base),
                "{page} names `{name}`, which nothing registers"
            );
            // A rate of a gauge, or of a counter under the name of its family, is never what was meant.
            if ["rate(", "increase("]
                .iter()
                .any(|function| before.ends_with(function))
            {
                assert_ne!(base, name, "{page}: `{name}` is no counter");
            }
        }
    }
}

#[test]
fn every_metric_is_in_the_handbook() {
    let text = read("docs/operations.md");
    let pages: BTreeSet<&str> = named(&text).into_iter().map(|(_, name)| name).collect();
    for metric in registered() {
        let shown = pages.iter().any(|name| {
            *name == metric
                || SUFFIXES
                    .iter()
                    .any(|suffix| name.strip_suffix(suffix) == Some(metric.as_str()))
        });
        assert!(shown, "docs/operations.md lacks `{metric}`");
    }
}
