//! Where problems are that were found across resources, which know no files.

use std::collections::BTreeMap;

use crate::document::{self, Node, Path};
use crate::problem::Problem;
use crate::resource::{self, Resource};

/// Which resource, as its key is shown, was read from where.
#[derive(Debug, Default)]
pub struct Places(BTreeMap<String, (String, Node)>);

impl Places {
    /// Reads all documents of a file, as [`resource::parse`] does, and keeps in
    /// mind where everything is.
    ///
    /// # Errors
    /// Every problem of every document.
    pub fn parse(&mut self, file: &str, text: &str) -> Result<Vec<Resource>, Vec<Problem>> {
        let nodes = document::read(file, text).map_err(|problem| vec![problem])?;
        let resources = resource::from_nodes(file, &nodes)?;
        let keys = resources.iter().map(|resource| resource.key().to_string());
        self.0.extend(keys.zip(nodes).map(|(key, node)| (key, (file.to_owned(), node))));
        Ok(resources)
    }

    /// The problem with file, line and column, if its resource was read here.
    /// Its path is `KEY` or `KEY, PATH`.
    #[must_use]
    pub fn place(&self, problem: Problem) -> Problem {
        if problem.line != 0 {
            return problem;
        }
        let (key, path) = match problem.path.split_once(", ") {
            Some((key, path)) => (key, steps(path)),
            None => (problem.path.as_str(), Path::default().key("metadata").key("name")),
        };
        match self.0.get(key) {
            None => problem,
            Some((file, node)) => {
                let at = node.locate(&path);
                Problem { file: file.clone(), line: at.line, column: at.column, ..problem }
            }
        }
    }
}

/// The path that is shown as `spec.anyOf[0].tdx`.
fn steps(text: &str) -> Path {
    text.split('.').fold(Path::default(), |path, part| {
        let mut parts = part.split('[');
        let path = path.key(parts.next().unwrap_or_default());
        let numbers = parts.filter_map(|number| number.strip_suffix(']')?.parse().ok());
        numbers.fold(path, |path, number| path.index(number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::check_set;

    const POLICY: &str = "apiVersion: countersign.dev/v1alpha1
kind: AttestationPolicy
metadata: { name: peers, namespace: payments }
spec:
  anyOf:
    - tdx: { measurements: { fromReferenceValues: absent } }
---
apiVersion: countersign.dev/v1alpha1
kind: ReferenceValues
metadata:
  name: idle
  namespace: payments
spec: { tdx: [{ name: one, mrTd: MRTD }] }
";

    #[test]
    fn what_is_found_across_resources_is_found_in_its_file() {
        let text = POLICY.replace("MRTD", &"aa".repeat(48));
        let mut places = Places::default();
        let resources = places.parse("policy.yaml", &text).unwrap();
        let problems: Vec<_> = check_set(&resources).into_iter().map(|p| places.place(p)).collect();
        let at = |part: &str| {
            let problem = problems.iter().find(|p| p.to_string().contains(part)).unwrap();
            (problem.file.as_str(), problem.line, problem.column)
        };
        assert_eq!(at("there is no ReferenceValues payments/absent"), ("policy.yaml", 6, 51));
        assert_eq!(at("ReferenceValues payments/idle"), ("policy.yaml", 11, 9));
        // Of something else it knows nothing.
        let elsewhere =
            Problem { path: "AttestationPolicy a/b, spec.anyOf".into(), line: 0, ..problems[0].clone() };
        assert_eq!(places.place(elsewhere).line, 0);
    }

    #[test]
    fn a_path_is_read_as_it_is_shown() {
        for text in ["spec.spiffeId", "spec.anyOf[0].tdx.measurements.fromReferenceValues", "a[1][2].b"] {
            assert_eq!(steps(text).to_string(), text);
        }
    }
}
