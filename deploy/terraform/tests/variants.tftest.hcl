# What variables add or take away, and what they refuse.

mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789" }
  }
  mock_data "google_storage_project_service_account" {
    defaults = { member = "serviceAccount:storage@test.iam.gserviceaccount.com" }
  }
  mock_resource "google_service_account" {
    defaults = {
      name   = "projects/test/serviceAccounts/mock@test.iam.gserviceaccount.com"
      email  = "mock@test.iam.gserviceaccount.com"
      member = "serviceAccount:mock@test.iam.gserviceaccount.com"
    }
  }
}

variables {
  project = "test"
  image   = "europe-west1-docker.pkg.dev/test/concept-worker/concept-worker@sha256:0"
}

run "a_worker_pool_pulls_and_nothing_pushes" {
  variables {
    variant        = "worker_pool"
    pool_instances = 3
  }
  assert {
    condition = alltrue([
      length(google_cloud_run_v2_service.worker) == 0,
      length(google_pubsub_subscription.push) == 0,
      length(google_service_account.push) == 0,
      length(google_cloud_scheduler_job.warm_instances) == 0,
      google_cloud_run_v2_worker_pool.worker[0].template[0].containers[0].args == tolist(["pull"]),
      google_cloud_run_v2_worker_pool.worker[0].scaling[0].manual_instance_count == 3,
    ])
    error_message = "the pool replaces the service"
  }
  assert {
    condition = alltrue([
      one([for env in google_cloud_run_v2_worker_pool.worker[0].template[0].containers[0].env : env.value if env.name == "CONCEPT_SUBSCRIPTION"]) == google_pubsub_subscription.pull[0].id,
      google_pubsub_subscription_iam_member.worker_pulls[0].role == "roles/pubsub.subscriber",
      google_pubsub_subscription_iam_member.pubsub_takes.subscription == google_pubsub_subscription.pull[0].name,
    ])
    error_message = "the pool must know its subscription and may pull from it"
  }
  assert {
    condition     = !anytrue([for key in keys(google_monitoring_alert_policy.alert) : contains(["latency", "failed_requests"], key)])
    error_message = "a pool has no requests to alert on"
  }
}

run "a_batch_job_runs_beside_the_service" {
  variables {
    batch = { jobs = "gs://test-jobs/tonight.ndjson", tasks = 16, parallelism = 8 }
  }
  assert {
    condition = alltrue([
      google_cloud_run_v2_job.batch[0].template[0].template[0].containers[0].args == tolist(["batch", "gs://test-jobs/tonight.ndjson"]),
      google_cloud_run_v2_job.batch[0].template[0].task_count == 16,
      google_cloud_run_v2_job.batch[0].template[0].parallelism == 8,
      length(google_cloud_run_v2_service.worker) == 1,
      contains(keys(google_monitoring_alert_policy.alert), "batch"),
    ])
    error_message = "sixteen tasks, eight at once, and an alert"
  }
}

run "a_cdn_makes_objects_readable_but_not_listable" {
  variables {
    cdn_domain = "images.example.com"
  }
  assert {
    condition = alltrue([
      google_storage_bucket_iam_member.anyone_reads_variations[0].role == "roles/storage.legacyObjectReader",
      google_storage_bucket.variations[0].public_access_prevention == "inherited",
      google_storage_bucket.bases[0].public_access_prevention == "enforced",
      one([for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env : env.value if env.name == "CONCEPT_PUBLIC_BASE_URL"]) == "https://images.example.com",
      google_compute_managed_ssl_certificate.cdn[0].managed[0].domains == tolist(["images.example.com"]),
    ])
    error_message = "only variations, only by name, and links that lead there"
  }
}

run "signed_links_let_the_worker_sign_in_its_own_name_only" {
  variables {
    signed_link_days = 7
  }
  assert {
    condition = alltrue([
      google_service_account_iam_member.worker_signs[0].service_account_id == google_service_account.worker.name,
      google_service_account_iam_member.worker_signs[0].member == google_service_account.worker.member,
    ])
    error_message = "on itself, not on the project"
  }
}

run "secrets_come_from_secret_manager_and_private_addresses_are_reached_through_the_network" {
  variables {
    batch    = { jobs = "gs://test-jobs/tonight.ndjson" }
    secrets  = { CONCEPT_REMOTE_TOKEN = "remote", CONCEPT_REDIS_URL = "redis" }
    settings = { CONCEPT_REMOTE_TOKEN = "in the open" }
    network  = { network = "default", subnetwork = "europe" }
  }
  assert {
    condition = alltrue([
      for envs in [
        google_cloud_run_v2_service.worker[0].template[0].containers[0].env,
        google_cloud_run_v2_job.batch[0].template[0].template[0].containers[0].env,
      ] :
      one([for env in envs : env.value_source[0].secret_key_ref[0].secret if env.name == "CONCEPT_REMOTE_TOKEN"]) == "remote" &&
      one([for env in envs : env.value_source[0].secret_key_ref[0].secret if env.name == "CONCEPT_REDIS_URL"]) == "redis"
    ])
    error_message = "service and job take the variables from the secrets, and from nowhere else"
  }
  assert {
    condition = alltrue([
      for name in ["remote", "redis"] :
      google_secret_manager_secret_iam_member.worker_reads_secrets[name].role == "roles/secretmanager.secretAccessor" &&
      google_secret_manager_secret_iam_member.worker_reads_secrets[name].member == google_service_account.worker.member
    ])
    error_message = "the worker may read these secrets"
  }
  assert {
    condition = alltrue([
      for access in [
        google_cloud_run_v2_service.worker[0].template[0].vpc_access[0],
        google_cloud_run_v2_job.batch[0].template[0].template[0].vpc_access[0],
      ] :
      access.egress == "PRIVATE_RANGES_ONLY" && access.network_interfaces[0].network == "default" && access.network_interfaces[0].subnetwork == "europe"
    ])
    error_message = "only private addresses go through the network"
  }
}

run "a_worker_pool_has_them_too" {
  variables {
    variant = "worker_pool"
    secrets = { CONCEPT_REDIS_URL = "redis" }
    network = { network = "default", subnetwork = "europe" }
  }
  assert {
    condition = alltrue([
      one([for env in google_cloud_run_v2_worker_pool.worker[0].template[0].containers[0].env : env.value_source[0].secret_key_ref[0].secret if env.name == "CONCEPT_REDIS_URL"]) == "redis",
      google_cloud_run_v2_worker_pool.worker[0].template[0].vpc_access[0].network_interfaces[0].network == "default",
    ])
    error_message = "the pool takes the secret and reaches the network"
  }
}

run "news_of_jobs_have_a_topic_where_it_is_wanted" {
  variables {
    progress_topic = true
  }
  assert {
    condition = alltrue([
      one([for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env : env.value if env.name == "CONCEPT_PROGRESS_TOPIC"]) == google_pubsub_topic.progress[0].id,
      google_pubsub_topic_iam_member.worker_publishes["progress"].topic == "concept-worker-progress",
      google_pubsub_topic_iam_member.worker_publishes["progress"].role == "roles/pubsub.publisher",
    ])
    error_message = "the worker knows the topic and may publish to it"
  }
}

run "new_pictures_start_the_default_job" {
  variables {
    default_job = "{\"palettes\":{\"generate\":7}}"
  }
  assert {
    condition = alltrue([
      google_storage_notification.new_picture[0].bucket == "test-concept-worker-bases",
      google_pubsub_topic_iam_member.storage_publishes[0].member == "serviceAccount:storage@test.iam.gserviceaccount.com",
      one([for env in google_cloud_run_v2_service.worker[0].template[0].containers[0].env : env.value if env.name == "CONCEPT_DEFAULT_JOB"]) == "{\"palettes\":{\"generate\":7}}",
    ])
    error_message = "the bucket tells, and the worker knows what to do"
  }
}

run "buckets_that_exist_are_used" {
  variables {
    base_bucket    = "our-pictures"
    palette_bucket = "our-variations"
  }
  assert {
    condition = alltrue([
      length(google_storage_bucket.bases) + length(google_storage_bucket.variations) == 0,
      google_storage_bucket_iam_member.worker_reads_bases.bucket == "our-pictures",
      google_storage_bucket_iam_member.worker_writes_variations.bucket == "our-variations",
    ])
    error_message = "no bucket is made, rights are on those given"
  }
}

run "the_build_may_roll_out_what_there_is_and_no_more" {
  variables {
    variant = "worker_pool"
    batch   = { jobs = "gs://test-jobs/tonight.ndjson" }
  }
  assert {
    condition = alltrue([
      length(google_cloud_run_v2_service_iam_member.build_rolls_out) == 0,
      length(google_cloud_run_v2_worker_pool_iam_member.build_rolls_out) == 1,
      length(google_cloud_run_v2_job_iam_member.build_rolls_out) == 1,
      google_service_account_iam_member.build_acts_as_worker[0].service_account_id == google_service_account.worker.name,
      google_project_iam_member.build_logs[0].role == "roles/logging.logWriter",
    ])
    error_message = "rights on the pool and the job; on the project only writing logs"
  }
}

run "an_alert_without_a_limit_is_not_made" {
  variables {
    alert_limits = { cold_starts_per_hour = -1, memory_share = -1, cache_hit_share = 0.1 }
  }
  assert {
    condition = alltrue([
      !contains(keys(google_monitoring_alert_policy.alert), "cold_starts"),
      length(google_monitoring_alert_policy.alert["memory"].conditions) == 1,
      google_monitoring_alert_policy.alert["cache_hits"].conditions[0].condition_threshold[0].comparison == "COMPARISON_LT",
    ])
    error_message = "one is gone, another has one condition left, a third is there because it has a limit"
  }
}

run "events_of_the_bucket_that_is_written_to_are_refused" {
  command = plan
  variables {
    base_bucket    = "one"
    palette_bucket = "one"
    default_job    = "{}"
  }
  expect_failures = [google_storage_notification.new_picture]
}

run "impossible_values_are_refused" {
  command = plan
  variables {
    name                    = "Concept_Worker"
    variant                 = "cron"
    max_delivery_attempts   = 3
    request_timeout_seconds = 300
    signed_link_days        = 8
    default_job             = "no JSON"
    cdn_domain              = "https://images.example.com"
    settings                = { PATH = "/" }
    secrets                 = { TOKEN = "remote" }
  }
  expect_failures = [
    var.name, var.variant, var.max_delivery_attempts, var.request_timeout_seconds,
    var.signed_link_days, var.default_job, var.cdn_domain, var.settings, var.secrets,
  ]
}

run "more_memory_than_the_processors_allow_is_refused" {
  command = plan
  variables {
    cpu        = 1
    memory_mib = 8192
  }
  expect_failures = [google_cloud_run_v2_service.worker]
}

run "more_warm_instances_than_the_limit_are_refused" {
  command = plan
  variables {
    max_instances  = 2
    business_hours = { min_instances = 3 }
  }
  expect_failures = [google_cloud_scheduler_job.warm_instances]
}
