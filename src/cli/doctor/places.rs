//! Where things come from and go to: cameras' sources and calibrations, the store.

use super::{DoctorArgs, Findings};
use crate::config::Environment;
use crate::homography::Calibration;
use crate::service::catalog::Catalog;
use crate::service::settings::ServiceSettings;
use crate::source::{self, OpenOptions};
use crate::store::{Store, StoreSettings};

pub(super) fn look(args: &DoctorArgs, catalog: &Catalog, findings: &mut Findings) {
    store(args, findings);
    for environment in catalog.iter() {
        for camera in 0..environment.cameras.len() {
            calibration(environment, camera, findings);
            frames(environment, camera, findings);
        }
    }
}

/// Opens the store, which brings its schema up to date, and writes to it.
fn store(args: &DoctorArgs, findings: &mut Findings) {
    let settings = ServiceSettings {
        data_dir: args.data_dir.clone(),
        database: args.database.clone(),
        ..ServiceSettings::default()
    };
    let address = settings.database_address();
    let advice =
        "name a file in a folder that can be written, or postgres://user:password@host/name";
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return findings.fail("store", error, advice),
    };
    let outcome = runtime.block_on(async {
        let store = Store::open(StoreSettings::new(address.clone())).await?;
        store.check().await?;
        let bytes = store.bytes().await?;
        store.close().await?;
        Ok::<u64, crate::store::StoreError>(bytes)
    });
    match outcome {
        Ok(bytes) => {
            let kib = bytes >> 10;
            let what = format!("{address}: opens, schema is current, can be written, {kib} KiB");
            findings.ok("store", what);
        }
        Err(error) => findings.fail("store", format!("{address}: {error}"), advice),
    }
}

fn calibration(environment: &Environment, camera: usize, findings: &mut Findings) {
    let id = &environment.cameras[camera].id;
    let advice = "`mtmc calibrate` makes one from points in the picture and on the map";
    let file = environment.homography_file(camera);
    let Some(file) = file.filter(|_| environment.homography.enabled) else {
        return findings.warn("homography", format!("{id}: no map is asked for"), "");
    };
    if !file.exists() {
        let what = format!("{id}: {} is not there: no place on the map", file.display());
        return findings.warn("homography", what, advice);
    }
    match Calibration::read(&file, environment.homography.ransac_threshold) {
        Ok(loaded) => {
            let points = loaded.calibration.points.len();
            findings.ok(
                "homography",
                format!("{id}: {} with {points} points", file.display()),
            );
        }
        Err(error) => findings.fail("homography", format!("{id}: {error}"), advice),
    }
}

/// Opens a source, S3 among them, and reads its first frame.
fn frames(environment: &Environment, camera: usize, findings: &mut Findings) {
    let camera = &environment.cameras[camera];
    let id = &camera.id;
    let Some(spec) = &camera.source else {
        let advice = "name one in the environment's file, or give --source-template";
        return findings.warn("source", format!("{id}: has no source"), advice);
    };
    let options = OpenOptions {
        frame_rate: camera.frame_rate,
        ..OpenOptions::default()
    };
    let advice =
        "check the address, the credentials (docs/operations.md), and that frames are there";
    let read = source::open(spec, &options).and_then(|mut source| {
        let frame = source.next_frame()?;
        Ok(frame.map(|frame| frame.image.dimensions()))
    });
    match read {
        Ok(Some((width, height))) => {
            findings.ok(
                "source",
                format!("{id}: {spec}: first frame {width}×{height}"),
            );
        }
        Ok(None) => findings.warn("source", format!("{id}: {spec}: holds no frame"), advice),
        Err(error) => findings.fail("source", format!("{id}: {error}"), advice),
    }
}
