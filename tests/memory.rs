//! The program's allocator gives back what a burst of jobs freed.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use concept_worker::service::memory;

// As in src/main.rs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PLANE_BYTES: usize = 24 << 20;

/// Planes, rows and growing buffers of one job, on the thread it is called on; the finished file is freed by another.
fn job(seed: usize, stored: &mpsc::SyncSender<Vec<u8>>) {
    let plane = vec![seed as u8 | 1; PLANE_BYTES];
    let rows: Vec<Vec<u8>> = plane.chunks(6_144 + seed).map(|row| row.iter().step_by(16).copied().collect()).collect();
    let mut file = Vec::new();
    rows.iter().for_each(|row| file.extend_from_slice(row));
    stored.send(std::hint::black_box(file)).unwrap();
}

#[test]
fn memory_is_back_near_idle_soon_after_a_burst() {
    let idle = memory::resident_bytes();
    let (stored, files) = mpsc::sync_channel(4);
    let storing = thread::spawn(move || files.into_iter().map(|file: Vec<u8>| file.len()).sum::<usize>());
    // They stay, as a pool's threads do, and keep what threads keep.
    let (leave, stay) = mpsc::channel::<()>();
    let (done, wait) = mpsc::channel();
    let stay = std::sync::Arc::new(std::sync::Mutex::new(stay));
    let workers: Vec<_> = (0..4)
        .map(|thread| {
            let (stored, done, stay) = (stored.clone(), done.clone(), stay.clone());
            thread::spawn(move || {
                (0..8).for_each(|number| job(thread * 8 + number, &stored));
                drop(stored);
                done.send(memory::resident_bytes()).unwrap();
                let _ = stay.lock().unwrap().recv();
            })
        })
        .collect();
    drop((stored, done));
    let busy = wait.iter().take(workers.len()).max().unwrap();
    assert!(busy > idle + PLANE_BYTES as u64, "the burst left no trace: {idle} to {busy}");
    storing.join().unwrap();
    // Ten seconds are the claim, on a machine with time to spare; here only whether it happens at all is judged.
    let start = Instant::now();
    let near = idle + (48 << 20);
    while memory::resident_bytes() > near && start.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(100));
        memory::give_back();
    }
    let after = memory::resident_bytes();
    assert!(after <= near, "idle {idle}, busy {busy}, after {after}");
    drop(leave);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}
