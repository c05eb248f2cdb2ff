//! Manifests for Kubernetes: YAML as the JSON that it stands for, and the pod inside of whatever makes pods.

use serde_json::{Map, Value};
use yaml_rust2::{Yaml, YamlLoader};

use crate::container::{Container, DEFAULT_CAPABILITIES};

/// Returns the documents of a file.
///
/// # Errors
/// When it is no YAML, or has what JSON has not: a key that is no string, an alias.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    documents.iter().map(json).collect()
}

fn json(yaml: &Yaml) -> Result<Value, String> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Boolean(value) => Value::from(*value),
        Yaml::Integer(value) => Value::from(*value),
        Yaml::Real(text) => Value::from(text.parse::<f64>().map_err(|error| format!("{text}: {error}"))?),
        Yaml::String(text) => Value::from(text.as_str()),
        Yaml::Array(values) => Value::Array(values.iter().map(json).collect::<Result<_, _>>()?),
        Yaml::Hash(entries) => {
            let entry = |(key, value): (&Yaml, &Yaml)| match key {
                Yaml::String(key) => Ok((key.clone(), json(value)?)),
                other => Err(format!("a key is no string: {other:?}")),
            };
            Value::Object(entries.iter().map(entry).collect::<Result<Map<_, _>, _>>()?)
        }
        Yaml::Alias(_) | Yaml::BadValue => return Err("an alias, or nothing that YAML knows".to_owned()),
    })
}

/// Returns metadata and specification of the pods that a document makes: itself, or a template.
#[must_use]
pub fn pod(document: &Value) -> Option<(&Value, &Value)> {
    let pod = match document["kind"].as_str()? {
        "Pod" => document,
        "DaemonSet" | "Deployment" | "Job" | "StatefulSet" => &document["spec"]["template"],
        "CronJob" => &document["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    Some((&pod["metadata"], &pod["spec"]))
}

/// Which filter a pod asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// None: `Unconfined`, or nothing said on a node without `seccompDefault`.
    Unconfined,
    /// That of the node's container engine.
    RuntimeDefault,
    /// One that was put on the node.
    Localhost,
}

/// Returns the first container of a pod as a container runtime would be told to make it, and the filter that it asks for.
///
/// # Panics
/// When the pod asks for a capability that no container has by default and that is not CAP_SYS_ADMIN, or has no emptyDir.
#[must_use]
pub fn container(spec: &Value) -> (Container, Filter) {
    let (pod, own) = (&spec["securityContext"], &spec["containers"][0]["securityContext"]);
    let said = |field: &str| if own[field].is_null() { pod[field].clone() } else { own[field].clone() };
    let names = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let mut capabilities = DEFAULT_CAPABILITIES.to_vec();
    if names(&own["capabilities"]["drop"]).iter().any(|name| name == "ALL") {
        capabilities.clear();
    }
    for name in names(&own["capabilities"]["add"]) {
        let known = DEFAULT_CAPABILITIES.iter().chain(&["CAP_SYS_ADMIN"]).find(|known| known[4..] == name);
        match known {
            Some(known) => capabilities.push(known),
            None => panic!("the test has no capability {name}"),
        }
    }
    let filter = match said("seccompProfile")["type"].as_str() {
        Some("Localhost") => Filter::Localhost,
        Some("RuntimeDefault") => Filter::RuntimeDefault,
        _ => Filter::Unconfined,
    };
    let entries = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let variable = |entry: &Value| Some(format!("{}={}", entry["name"].as_str()?, entry["value"].as_str()?));
    let first = &spec["containers"][0];
    let volumes = entries(&spec["volumes"]);
    let empty =
        volumes.iter().find(|volume| !volume["emptyDir"].is_null()).map(|volume| volume["name"].clone());
    let mounts = entries(&first["volumeMounts"]);
    let mount = mounts.iter().find(|mount| Some(&mount["name"]) == empty.as_ref());
    let Some(volume) = mount.and_then(|mount| mount["mountPath"].as_str()) else {
        panic!("the pod has no emptyDir: {spec}");
    };
    let container = Container {
        uid: said("runAsUser").as_u64().and_then(|uid| u32::try_from(uid).ok()).unwrap_or_default(),
        capabilities,
        no_new_privileges: own["allowPrivilegeEscalation"] == false,
        read_only_root: own["readOnlyRootFilesystem"] == true,
        user_namespace: spec["hostUsers"] == false,
        volume: volume.to_owned(),
        variables: entries(&first["env"]).iter().filter_map(variable).collect(),
        ..Container::default()
    };
    (container, filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_becomes_a_container() {
        let text = "kind: Job\nspec:\n  template:\n    spec:\n      hostUsers: false\n      securityContext: {runAsUser: 7}\n      \
            containers:\n        - env: [{name: A, value: b}]\n          volumeMounts: [{name: w, mountPath: /w}]\n          \
            securityContext: {capabilities: {drop: [ALL], add: [SYS_ADMIN]}}\n      volumes: [{name: w, emptyDir: {}}]\n";
        let documents = documents(text).unwrap_or_default();
        let (container, filter) = container(pod(&documents[0]).map_or(&Value::Null, |(_, spec)| spec));
        assert_eq!((container.uid, container.user_namespace, filter), (7, true, Filter::Unconfined));
        assert_eq!(container.capabilities, ["CAP_SYS_ADMIN"]);
        assert_eq!((container.volume.as_str(), container.variables), ("/w", vec!["A=b".to_owned()]));
    }
}
