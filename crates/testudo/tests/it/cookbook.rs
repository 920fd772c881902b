//! The recipes of docs/policies.md, compiled and tested beside the bookshop's own rules.

use std::fs;

use crate::fleet::{Folder, repository};

/// A recipe: its title, its rules and its cases.
struct Recipe {
    title: String,
    rules: String,
    cases: String,
}

fn recipes(page: &str) -> Vec<Recipe> {
    let (_, cookbook) = page.split_once("\n## Cookbook\n").expect("a cookbook");
    let block = |text: &str, language: &str| {
        let (_, after) = text
            .split_once(&format!("```{language}\n"))
            .unwrap_or_else(|| panic!("no {language}: {text}"));
        after.split_once("```").unwrap().0.to_owned()
    };
    let sections = cookbook.split("\n### ").skip(1);
    sections
        .map(|section| Recipe {
            title: section.lines().next().unwrap().to_owned(),
            rules: block(section, "cedar"),
            cases: block(section, "toml"),
        })
        .collect()
}

#[test]
fn every_recipe_of_the_cookbook_holds_what_it_says() {
    let recipes = recipes(&fs::read_to_string(repository().join("docs/policies.md")).unwrap());
    assert!(recipes.len() >= 8, "{} recipes", recipes.len());
    let folder = Folder::bookshop();
    let policies = folder.path().join("policies");
    fs::remove_file(policies.join("bookshop.test.toml")).unwrap();
    for Recipe {
        title,
        rules,
        cases,
    } in recipes
    {
        fs::write(policies.join("recipe.cedar"), rules).unwrap();
        fs::write(policies.join("recipe.test.toml"), cases).unwrap();
        let output = folder.testudo(&["policy", "test", "fleet.toml"]);
        let (report, errors) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{title}:\n{report}\n{errors}");
        assert!(
            !report.contains("recipe.cedar"),
            "{title}: a rule is not tested:\n{report}"
        );
        assert_eq!(errors, "", "{title}");
    }
}

#[test]
fn the_rules_and_tests_shown_elsewhere_on_the_page_are_valid() {
    let page = fs::read_to_string(repository().join("docs/policies.md")).unwrap();
    let (before, _) = page.split_once("\n## Cookbook\n").unwrap();
    let blocks = |language: &str| -> Vec<String> {
        let fence = format!("```{language}\n");
        before
            .split(&fence)
            .skip(1)
            .map(|part| part.split_once("```").unwrap().0.to_owned())
            .collect()
    };
    let (rules, cases) = (blocks("cedar"), blocks("toml"));
    assert!(!rules.is_empty() && !cases.is_empty());
    let folder = Folder::bookshop();
    fs::remove_file(folder.path().join("policies/bookshop.test.toml")).unwrap();
    fs::write(folder.path().join("policies/page.cedar"), rules.join("\n")).unwrap();
    fs::write(
        folder.path().join("policies/page.test.toml"),
        cases.join("\n"),
    )
    .unwrap();
    folder.run(&["policy", "test", "fleet.toml"]);
}
