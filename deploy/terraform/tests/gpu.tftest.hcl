# A model, and an L4 to run it on: what is asked of Cloud Run, who may do what, and what is refused.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789" }
  }
  mock_resource "google_service_account" {
    defaults = {
      name   = "projects/test/serviceAccounts/mock@test.iam.gserviceaccount.com"
      email  = "mock@test.iam.gserviceaccount.com"
      member = "serviceAccount:mock@test.iam.gserviceaccount.com"
    }
  }
}

override_resource {
  target = google_service_account.models[0]
  values = {
    name   = "projects/test/serviceAccounts/models@test.iam.gserviceaccount.com"
    email  = "models@test.iam.gserviceaccount.com"
    member = "serviceAccount:models@test.iam.gserviceaccount.com"
  }
}

override_resource {
  target = google_service_account.worker
  values = {
    name   = "projects/test/serviceAccounts/run@test.iam.gserviceaccount.com"
    email  = "run@test.iam.gserviceaccount.com"
    member = "serviceAccount:run@test.iam.gserviceaccount.com"
  }
}

variables {
  project = "test"
  image   = "europe-west1-docker.pkg.dev/test/concept-worker/concept-worker@sha256:0"
  model = {
    name   = "inspyrenet"
    object = "inspyrenet-1024.onnx"
    sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
  }
  gpu = {}
}

run "an_l4_comes_with_the_processors_the_memory_and_the_billing_that_it_needs" {
  assert {
    condition = alltrue([
      google_cloud_run_v2_service.worker[0].template[0].node_selector[0].accelerator == "nvidia-l4",
      google_cloud_run_v2_service.worker[0].template[0].containers[0].resources[0].limits["nvidia.com/gpu"] == "1",
      google_cloud_run_v2_service.worker[0].template[0].containers[0].resources[0].limits["cpu"] == "4",
      google_cloud_run_v2_service.worker[0].template[0].containers[0].resources[0].limits["memory"] == "16384Mi",
      !google_cloud_run_v2_service.worker[0].template[0].containers[0].resources[0].cpu_idle,
      google_cloud_run_v2_service.worker[0].template[0].gpu_zonal_redundancy_disabled,
      google_cloud_run_v2_service.worker[0].template[0].scaling[0].max_instance_count == 3,
    ])
    error_message = "Cloud Run refuses an L4 with less, with processors that come and go, or beyond its quota"
  }
  assert {
    condition = alltrue([
      google_cloud_run_v2_service.worker[0].template[0].containers[0].startup_probe[0].http_get[0].path == "/ready",
      google_cloud_run_v2_service.worker[0].template[0].containers[0].startup_probe[0].failure_threshold * google_cloud_run_v2_service.worker[0].template[0].containers[0].startup_probe[0].period_seconds == 240,
    ])
    error_message = "a model takes longer to load than the worker alone takes to start"
  }
}

run "the_worker_is_told_its_model_and_that_it_must_have_the_gpu" {
  assert {
    condition = {
      for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env :
      env.name => env.value if startswith(env.name, "CONCEPT_MODEL") || contains(["CONCEPT_REQUIRE_GPU", "CONCEPT_EXECUTION_PROVIDERS"], env.name)
      } == {
      CONCEPT_MODEL               = "inspyrenet"
      CONCEPT_MODEL_PATH          = "/models/inspyrenet-1024.onnx"
      CONCEPT_MODEL_SHA256        = "0000000000000000000000000000000000000000000000000000000000000000"
      CONCEPT_MODEL_CACHE         = "/models/built"
      CONCEPT_MODEL_BEFORE_READY  = "true"
      CONCEPT_EXECUTION_PROVIDERS = "tensorrt,cuda"
      CONCEPT_REQUIRE_GPU         = "true"
    }
    error_message = "settings of the model differ"
  }
  assert {
    condition = alltrue([
      for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env :
      strcontains(file("${path.module}/../../docs/configuration.md"), "| `${env.name}` |") if startswith(env.name, "CONCEPT_")
    ])
    error_message = "a variable is set that the worker does not know"
  }
  assert {
    condition = one([
      for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env : env.value if env.name == "CONCEPT_MEMORY_CLEANUP_THRESHOLD_MB"
    ]) == "12288"
    error_message = "the threshold follows the memory that there is"
  }
}

run "only_the_job_may_write_models" {
  assert {
    condition = alltrue([
      google_storage_bucket_iam_member.worker_reads_models[0].role == "roles/storage.objectViewer",
      google_storage_bucket_iam_member.worker_reads_models[0].member == "serviceAccount:run@test.iam.gserviceaccount.com",
      google_storage_bucket_iam_member.worker_reads_models[0].bucket == "test-concept-worker-models",
      google_cloud_run_v2_service.worker[0].template[0].volumes[0].gcs[0].bucket == "test-concept-worker-models",
      google_cloud_run_v2_service.worker[0].template[0].volumes[0].gcs[0].read_only,
      google_cloud_run_v2_service.worker[0].template[0].containers[0].volume_mounts[0].mount_path == "/models",
    ])
    error_message = "the worker reads models and no more"
  }
  assert {
    condition = alltrue([
      google_storage_bucket_iam_member.models_are_built[0].role == "roles/storage.objectUser",
      google_storage_bucket_iam_member.models_are_built[0].member == "serviceAccount:models@test.iam.gserviceaccount.com",
      google_cloud_run_v2_job.model[0].template[0].template[0].service_account == "models@test.iam.gserviceaccount.com",
      !google_cloud_run_v2_job.model[0].template[0].template[0].volumes[0].gcs[0].read_only,
      google_storage_bucket.models[0].public_access_prevention == "enforced",
    ])
    error_message = "the job writes, in its own name"
  }
}

run "engines_are_built_on_the_gpu_that_will_run_them" {
  assert {
    condition = alltrue([
      google_cloud_run_v2_job.model[0].template[0].template[0].containers[0].args == tolist(["model", "build"]),
      google_cloud_run_v2_job.model[0].template[0].template[0].node_selector[0].accelerator == google_cloud_run_v2_service.worker[0].template[0].node_selector[0].accelerator,
      google_cloud_run_v2_job.model[0].template[0].template[0].gpu_zonal_redundancy_disabled,
      google_cloud_run_v2_job.model[0].template[0].template[0].containers[0].resources[0].limits == google_cloud_run_v2_service.worker[0].template[0].containers[0].resources[0].limits,
      one([for env in google_cloud_run_v2_job.model[0].template[0].template[0].containers[0].env : env.value if env.name == "CONCEPT_MODEL_CACHE"]) == "/models/built",
    ])
    error_message = "an engine holds for one kind of GPU, and lies where the service looks for it"
  }
  assert {
    condition = alltrue([
      google_cloud_run_v2_job_iam_member.build_rolls_out_model[0].role == "roles/run.developer",
      google_service_account_iam_member.build_acts_as_models[0].service_account_id == google_service_account.models[0].name,
    ])
    error_message = "an engine holds for one version of the libraries: the job gets the service's image"
  }
}

run "a_worker_pool_and_a_batch_job_get_the_gpu_too" {
  variables {
    variant = "worker_pool"
    batch   = { jobs = "gs://test-jobs/tonight.ndjson" }
    gpu     = { zonal_redundancy = true }
  }
  assert {
    condition = alltrue([
      google_cloud_run_v2_worker_pool.worker[0].template[0].node_selector[0].accelerator == "nvidia-l4",
      google_cloud_run_v2_worker_pool.worker[0].template[0].volumes[0].gcs[0].read_only,
      google_cloud_run_v2_worker_pool.worker[0].template[0].containers[0].resources[0].limits["nvidia.com/gpu"] == "1",
      !google_cloud_run_v2_worker_pool.worker[0].template[0].gpu_zonal_redundancy_disabled,
      google_cloud_run_v2_job.batch[0].template[0].template[0].node_selector[0].accelerator == "nvidia-l4",
      google_cloud_run_v2_job.batch[0].template[0].template[0].gpu_zonal_redundancy_disabled,
      google_cloud_run_v2_job.batch[0].template[0].template[0].volumes[0].gcs[0].read_only,
    ])
    error_message = "all that runs jobs must have what CONCEPT_REQUIRE_GPU asks for"
  }
}

run "a_model_without_a_gpu_runs_on_the_processors" {
  variables {
    gpu          = null
    model        = { name = "inspyrenet-fast", object = "fast/inspyrenet-384.onnx" }
    model_bucket = "our-models"
    memory_mib   = 4096
  }
  assert {
    condition = alltrue([
      length(google_cloud_run_v2_service.worker[0].template[0].node_selector) == 0,
      google_cloud_run_v2_service.worker[0].template[0].containers[0].resources[0].limits == tomap({ cpu = "2", memory = "4096Mi" }),
      google_cloud_run_v2_service.worker[0].template[0].containers[0].resources[0].cpu_idle,
      google_cloud_run_v2_service.worker[0].template[0].scaling[0].max_instance_count == 10,
      google_cloud_run_v2_service.worker[0].template[0].volumes[0].gcs[0].bucket == "our-models",
      length(google_storage_bucket.models) == 0,
    ])
    error_message = "the usual instance, with the model's bucket"
  }
  assert {
    condition = length([
      for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env : env.name
      if contains(["CONCEPT_REQUIRE_GPU", "CONCEPT_EXECUTION_PROVIDERS", "CONCEPT_MODEL_SHA256"], env.name)
    ]) == 0
    error_message = "nothing is asked for that is not there"
  }
}

run "without_a_model_nothing_is_added" {
  variables {
    gpu   = null
    model = null
  }
  assert {
    condition = alltrue([
      length(google_cloud_run_v2_job.model) == 0,
      length(google_service_account.models) == 0,
      length(google_storage_bucket_iam_member.worker_reads_models) == 0,
      length(google_cloud_run_v2_service.worker[0].template[0].volumes) == 0,
      length(google_cloud_run_v2_service.worker[0].template[0].node_selector) == 0,
      google_cloud_run_v2_service.worker[0].template[0].containers[0].startup_probe[0].failure_threshold == 30,
      !anytrue([for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env : startswith(env.name, "CONCEPT_MODEL")]),
    ])
    error_message = "no bucket, no job, no rights, no settings"
  }
}

run "a_gpu_without_a_model_is_refused" {
  command = plan
  variables {
    model = null
  }
  expect_failures = [google_cloud_run_v2_service.worker]
}

run "impossible_models_are_refused" {
  command = plan
  variables {
    model = { name = "inspyrenet", object = "/inspyrenet.onnx", sha256 = "md5" }
  }
  expect_failures = [var.model]
}

run "more_warm_instances_than_gpus_are_refused" {
  command = plan
  variables {
    business_hours = { min_instances = 4 }
  }
  expect_failures = [google_cloud_scheduler_job.warm_instances]
}
