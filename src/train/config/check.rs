//! Which settings make sense.

use mtmc_models::network;

use super::describe::is_clip;
use super::{Config, PromptsConfig};
use crate::train::TrainError;

impl Config {
    /// Whether all settings make sense.
    ///
    /// # Errors
    /// The first that does not, by its path.
    pub fn check(&self) -> Result<(), TrainError> {
        let prompts = self.prompts.as_ref().and_then(PromptsConfig::fault);
        let fault = self.fault().or_else(|| self.schedule.fault()).or(prompts);
        match fault.or_else(|| self.optimizer.method.fault()) {
            Some(fault) => Err(TrainError::Setting(fault)),
            None => Ok(()),
        }
    }

    fn fault(&self) -> Option<String> {
        let unit = |value: f64| (0.0..=1.0).contains(&value);
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        let clip = is_clip(&self.model.architecture);
        let (model, data, loss, optimizer) = (&self.model, &self.data, &self.loss, &self.optimizer);
        let checks = [
            (self.epochs > 0, "epochs is 0"),
            (
                network::is_embedder(&model.architecture),
                "model.architecture is no encoder that `mtmc models list` knows",
            ),
            (
                (16..=1024).contains(&model.height) && (16..=1024).contains(&model.width),
                "model.height and model.width are within 16..=1024",
            ),
            (
                (1..=2).contains(&model.last_stride),
                "model.last_stride is 1 or 2",
            ),
            (
                (2..=1024).contains(&data.people) && (1..=1024).contains(&data.images),
                "data.people is within 2..=1024, data.images within 1..=1024",
            ),
            (
                (0.0..1.0).contains(&model.dropout) && (0.0..1.0).contains(&model.drop_path),
                "model.dropout and model.drop_path are within 0..1",
            ),
            (
                clip || model.dropout + model.drop_path == 0.0,
                "model.dropout and model.drop_path are for CLIP: the other originals have none",
            ),
            (
                clip || self.prompts.is_none(),
                "prompts need CLIP's encoders: model.architecture=clip-reid-vit-b16",
            ),
            (
                (0.0..1.0).contains(&data.validation),
                "data.validation is within 0..1",
            ),
            (
                unit(data.flip) && unit(data.erase) && unit(f64::from(data.jitter)),
                "data.flip, data.erase and data.jitter are within 0..=1",
            ),
            (data.pad <= 256, "data.pad is at most 256"),
            (
                not_negative(loss.id)
                    && not_negative(loss.triplet)
                    && not_negative(loss.centre)
                    && not_negative(loss.i2t),
                "weights of losses are not negative",
            ),
            (
                loss.id + loss.triplet > 0.0,
                "loss.id or loss.triplet has to be above 0",
            ),
            (
                (0.0..1.0).contains(&loss.smoothing),
                "loss.smoothing is within 0..1",
            ),
            (
                not_negative(loss.centre_rate),
                "loss.centre_rate is not negative",
            ),
            (
                not_negative(optimizer.decay)
                    && not_negative(optimizer.bias_decay)
                    && not_negative(optimizer.bias_rate)
                    && not_negative(optimizer.new_rate)
                    && not_negative(optimizer.clip),
                "decays, rates and clip of the optimizer are not negative",
            ),
            (
                (1..=1024).contains(&optimizer.accumulate),
                "optimizer.accumulate is within 1..=1024",
            ),
            (
                self.run.checkpoint_every > 0,
                "run.checkpoint_every is at least 1",
            ),
        ];
        let broken = checks.iter().find(|(holds, _)| !holds);
        broken.map(|(_, fault)| (*fault).to_string())
    }
}

impl PromptsConfig {
    fn fault(&self) -> Option<String> {
        if self.epochs == 0 || !(1..=65536).contains(&self.batch) {
            return Some("prompts.epochs is above 0, prompts.batch within 1..=65536".to_string());
        }
        if !(self.decay.is_finite() && self.decay >= 0.0) {
            return Some("prompts.decay is not negative".to_string());
        }
        let fault = self.schedule.fault().or_else(|| self.method.fault());
        fault.map(|fault| format!("prompts: {fault}"))
    }
}
