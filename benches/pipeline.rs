//! Whole jobs from source bytes to a folder with manifest, gallery and contact sheet, on one thread and on two.
//! Throughput is in pixels written.

use std::time::Duration;

use concept_worker::pipeline::base::Inputs;
use concept_worker::pipeline::job::Format;
use concept_worker::pipeline::manifest::State;
use concept_worker::pipeline::run;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

mod pictures;

fn jobs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline");
    group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    let options = pictures::run_options();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut threads = vec![1];
    if cores > 1 {
        threads.push(2);
    } else {
        eprintln!("pipeline: two threads are skipped; this machine has one core");
    }
    for size in pictures::sizes("pipeline") {
        let source = pictures::photo_jpeg(size);
        for palettes in [1, 7, 16] {
            let job = pictures::job(palettes, Format::Jpeg);
            group.throughput(Throughput::Elements(size.pixels() * palettes as u64));
            for &threads in &threads {
                let pool = pictures::pool(threads);
                let folder = tempfile::tempdir().expect("a temporary folder");
                let name = format!("jpeg/{}/{palettes}-palettes/{threads}-threads", size.name);
                group.bench_function(name, |b| {
                    b.iter(|| {
                        let run = || {
                            run::run(&job, Inputs { picture: &source, fill: None }, folder.path(), &options, &|_| ())
                        };
                        let manifest = pool.install(run).expect("the job runs");
                        assert_eq!(manifest.state, State::Complete);
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, jobs);
criterion_main!(benches);
