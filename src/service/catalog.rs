//! The environments that tasks can be started for.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::bail;

use crate::config::Environment;

/// The environments by their IDs.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    environments: BTreeMap<String, Arc<Environment>>,
}

impl Catalog {
    /// A catalog of these environments; a camera without a source gets one by `template`, in which
    /// `{environment}` and `{camera}` stand for the IDs.
    ///
    /// # Errors
    /// Two environments have one ID.
    pub fn new(
        environments: impl IntoIterator<Item = Environment>,
        template: Option<&str>,
    ) -> anyhow::Result<Self> {
        let mut catalog = Self::default();
        for mut environment in environments {
            if let Some(template) = template {
                fill_sources(&mut environment, template);
            }
            let id = environment.id.clone();
            let before = catalog.environments.insert(id, Arc::new(environment));
            if let Some(before) = before {
                bail!("two environments have the id `{}`", before.id);
            }
        }
        Ok(catalog)
    }

    /// All of them, by ID.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Environment>> {
        self.environments.values()
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Option<&Arc<Environment>> {
        self.environments.get(id)
    }
}

fn fill_sources(environment: &mut Environment, template: &str) {
    let template = template.replace("{environment}", &environment.id);
    for camera in &mut environment.cameras {
        if camera.source.is_none() {
            camera.source = Some(template.replace("{camera}", &camera.id));
        }
    }
}
