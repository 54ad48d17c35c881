use super::*;

fn load(settings: &[&str]) -> Result<Config, TrainError> {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    Config::load(None, &settings)
}

#[test]
fn settings_go_over_the_defaults() {
    let config = load(&[
        "schedule.base=0.001",
        "loss.margin=soft",
        "model.architecture=osnet-x0.25",
        "schedule.decay={kind=\"step\",every=40,gamma=0.1}",
    ])
    .unwrap();
    assert_eq!(config.schedule.base, 0.001);
    assert_eq!(config.loss.margin, Margin::Soft);
    assert_eq!(config.model.architecture, "osnet-x0.25");
    assert!(matches!(
        config.schedule.decay,
        Decay::Step { every: 40, .. }
    ));
    assert_eq!(config.optimizer, OptimizerConfig::default());
}

// By hand from CLIP-ReID's schedulers (solver/cosine_lr.py, lr_scheduler.py), whose first epoch
// is 1 and whose warm-up to epoch 5 knows no cosine.
#[test]
fn clip_reids_rates_are_the_references() {
    let prompts = PromptsConfig::default().schedule;
    let cosine = |epoch: f64| {
        1e-6 + (3.5e-4 - 1e-6) * (1.0 + (std::f64::consts::PI * epoch / 120.0).cos()) / 2.0
    };
    let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 1e-12;
    for (epoch, rate) in [
        (0, 1e-5 + (3.5e-4 - 1e-5) / 5.0),
        (3, 1e-5 + (3.5e-4 - 1e-5) * 4.0 / 5.0),
        (4, cosine(5.0)),
        (59, cosine(60.0)),
        (119, 1e-6),
    ] {
        assert!(near(prompts.rate(epoch), rate), "{epoch}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let config = Config::load(Some(&folder.join("clip-reid.toml")), &[]).unwrap();
    for (epoch, rate) in [
        (0, 5e-6 * 0.19),
        (9, 5e-6),
        (28, 5e-6),
        (29, 5e-7),
        (49, 5e-8),
    ] {
        assert!(near(config.schedule.rate(epoch), rate), "{epoch}");
    }
    assert_eq!((config.prompt_epochs(), config.all_epochs()), (120, 180));
}

#[test]
fn what_is_written_is_read_again() {
    let config = load(&[
        "loss.margin=soft",
        "epochs=3",
        "model.architecture=clip-reid-vit-tiny",
        "prompts.batch=8",
        "prompts.schedule.base=0.01",
    ])
    .unwrap();
    let text = config.to_toml().unwrap();
    let again = Config::of_table(text.parse().unwrap()).unwrap();
    assert_eq!(again, config);
    let settings = config.settings().unwrap();
    assert!(settings.contains(&("data.people".to_string(), "16".to_string())));
}

#[test]
fn the_files_beside_the_program_can_be_loaded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let load = |name: &str| Config::load(Some(&folder.join(name)), &[]).unwrap();
    assert_eq!(load("strong.toml"), Config::default());
    let plain = load("plain.toml");
    assert!(matches!(
        plain.schedule.decay,
        Decay::Step { every: 40, .. }
    ));
    assert_eq!((plain.model.reduced, plain.data.people), (512, 8));
    assert_eq!(load("small.toml").model.architecture, "resnet18-reid-x0.25");
    assert_eq!(load("fine-tune-osnet.toml").optimizer.new_rate, 10.0);
    assert_eq!(
        load("clip-reid.toml").prompts,
        Some(PromptsConfig::default())
    );
}

#[test]
fn wrong_settings_are_told_by_name() {
    for (setting, part) in [
        ("epochs", "PATH=VALUE"),
        ("epochs=0", "epochs"),
        ("schedule.bsae=1", "bsae"),
        ("model.architecture=vgg", "model.architecture"),
        ("optimizer.accumulate=0", "optimizer.accumulate"),
        ("schedule.base=-1", "schedule.base"),
        ("model.dropout=1", "model.dropout"),
        ("model.drop_path=0.1", "model.drop_path"),
        ("model.precision=f16", "f16"),
        ("prompts.epochs=3", "prompts"),
    ] {
        let error = load(&[setting]).unwrap_err().to_string();
        assert!(error.contains(part), "{setting}: {error}");
    }
}
