-- nebula.conf.lua: what the environment does not fit. The environment wins.
return {
  worker = { concurrency = 16, lease = "30s", shutdown_timeout = "30s" },
}
