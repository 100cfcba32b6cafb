---@meta nebula.log
-- What an editor sees of nebula.log, and what the API documents are made of.

---A log of records, one line each, on standard error:
---
---    2026-11-22T17:58:03.123456Z info  archived day=2026-11-21 rows=12 url="file:/a b"
---
---The environment variable `NEBULA_LOG` says what is written: `debug`, `info` (the default), `warn`,
---`error` or `off`; with `json:` before it (`json:info`), each line is a JSON object with `time`,
---`level`, `message` and the fields.
---
---Fields come in the order of their names. Values of fields with secret-looking names (password,
---secret, token, signature, credential, authorization, cookie, `*_key`) become `***`, as do passwords
---in URLs and values after such names within texts. Long texts are cut at 8 KiB.
---@class nebula.log: nebula.log.logger
local log = {}

---@class nebula.log.logger
local logger = {}

---@param message any
---@param fields? table<string, any>
function logger.debug(message, fields) end

---@param message any
---@param fields? table<string, any>
function logger.info(message, fields) end

---@param message any
---@param fields? table<string, any>
function logger.warn(message, fields) end

---@param message any
---@param fields? table<string, any>
function logger.error(message, fields) end

---A logger that adds these fields, and those of the logger it comes from, to each record.
---@param fields table<string, any>
---@return nebula.log.logger
function logger.with(fields) end

---Whether records of a level are written. Raises `validation` for an unknown level.
---@param level "debug"|"info"|"warn"|"error"
---@return boolean
function log.enabled(level) end

---A text as a record would show it: passwords in URLs and values after secret-looking names are `***`.
---@param text string
---@return string
function log.redact(text) end

return log
