---@meta nebula.pg
-- What an editor sees of nebula.pg, and what the API documents are made of.

---Pooled PostgreSQL: connections open on demand, statements of many tasks share them by pipelining,
---values come typed.
---
--- PostgreSQL                     | Lua
--- -------------------------------|---------------------------------------------------------------
--- int2, int4, int8, oid          | integer
--- float4, float8                 | number
--- bool                           | boolean
--- numeric                        | string, exact
--- text, varchar, uuid, enum      | string
--- timestamptz                    | `2026-11-22T17:58:03.123456Z`, always UTC, always six digits
--- timestamp                      | `2026-11-22T17:58:03.123456`
--- date, time, interval and others| the server's text (ISO)
--- bytea                          | string of bytes
--- json, jsonb                    | the value, as `nebula.json.decode` gives it
--- arrays                         | table 1..n in each dimension, `nebula.null` for NULL elements
--- NULL                           | absent in a row, nil as a value
---
---`pool:decoder` gives a type a reader of your own.
---
---Parameters ($1, $2, ...) are always bound, never pasted: nil and `nebula.null` are NULL, strings go
---as they are (bytes where the parameter is a bytea), a table becomes an array or JSON by the type of
---its parameter. A string for a json parameter is JSON text; `pg.json("x")` is the JSON string.
---@class nebula.pg
local pg = {}

---@class nebula.pg.connect_options
---@field url? string a postgresql:// URL or key=value text; PG* variables and password files apply below it.
---  Of several hosts the one that takes writes is used (`target_session_attrs`), with `read_only` any; a silent
---  one is left after 5 s or less. Off this machine `sslmode` is `verify-full` unless it is given, with the
---  system's authorities unless `sslrootcert` is, and a connection whose server is gone ends after a minute of
---  silence (`keepalives_idle=30`, `keepalives_interval=10`, `keepalives_count=3`), or five with something unsent
---  or unacknowledged (`tcp_user_timeout=300000`, milliseconds), unless they are given
---@field max_connections? integer (100); also `max_size`
---@field min_connections? integer (0) opened in the background and kept; also `min_idle`
---@field max_waiting? integer callers that may wait for a connection; one more is refused with `pool` (any number)
---@field ping_after? number|string rest after which an idle connection is asked for a sign of life (30); 0: never
---@field leak_after? number|string a connection held for longer is logged once at `warn`, with file:line (never)
---@field max_lifetime? number|string seconds or "30m" (1800), with a tenth of jitter
---@field idle_timeout? number|string (600)
---@field connection_timeout? number|string for a free connection, and for connecting (30)
---@field statement_timeout? number|string deadline of each statement (none)
---@field statement_cache? integer|false prepared statements of a connection (256); false for a pooler in
---  transaction mode, where no statement can be cancelled: its connection is closed
---@field read_only? boolean every transaction is read-only (false)
---@field max_bytes? integer limit of a result, as libpq keeps it, and of a row of a stream or COPY (64 MiB);
---  libpq reads as fast as the server sends, so that one huge value may be whole before it is refused
---@field application_name? string ("nebula")
---@field statement_logging? boolean|"parameters" logs every statement at `info` (false): see below
---@field slow_query? number|string statements that take longer are logged at `warn` (none)

---Opens a pool. Connects to nothing yet, but for `min_connections` in the background.
---The statement log tells a statement's text with its strings as ?, number and types of its parameters,
---rows, duration and file:line; with `statement_logging = "parameters"` strings and values as they are.
---NEBULA_TRACE=1 in the environment logs each statement of every pool as a span: besides, the task, the
---connection, how long it waited before it was sent, and the whole time.
---A pool of 20 or more that the server has no room for is told of at `warn`, once.
---Raises `config` (a malformed URL), `validation` (an option).
---@param options? nebula.pg.connect_options|string options, or the URL alone
---@return nebula.pg.Pool
function pg.connect(options) end

---A name (or several, joined by dots) quoted for SQL: the only safe way to put one into a statement.
---@param ... string
---@return string
function pg.ident(...) end

---A value quoted for SQL, where no parameter is possible.
---@param value string|number|boolean|nil
---@return string
function pg.literal(value) end

---A parameter that is JSON whatever its type. `pg.json(nil)` is refused; `pg.json(nebula.null)` is null.
---@param value any
function pg.json(value) end

---A parameter that is an array whatever its type.
---@param list table
function pg.array(list) end

---A parameter that is sent as these bytes.
---@param bytes string
function pg.bytea(bytes) end

---SQL, or a table of it and its options. A deadline is in seconds, or text such as "2m".
---@alias nebula.pg.sql string|{[1]: string, deadline?: number|string, prepare?: boolean, max_bytes?: integer}

---An array of row tables. `rows.count` is what the server counted (rows returned, or affected), and
---`rows.fields` is a list of `{name=, type=, oid=}`; neither is seen by `#`, ipairs or pairs.
---@class nebula.pg.rows: table[]
---@field count integer
---@field fields {name: string, type?: string, oid: integer}[]

---What a pool, an acquired connection and a transaction's handle have in common. All of it waits, and
---raises `database` (with the SQLSTATE in `code`; `detail` has the server's detail, hint, constraint
---and the statement), `conflict` (23505), `timeout`, `limit`, `pool`, `validation`, `unknown_outcome`.
---@class nebula.pg.queries
local db = {}

---All rows of a statement, in memory at once (`max_bytes` bounds them; `rows` streams).
---@param sql nebula.pg.sql
---@param ... any the parameters, counted: a nil is NULL
---@return nebula.pg.rows
function db:query(sql, ...) end

---The first row, or nil.
---@param sql nebula.pg.sql
---@return table|nil
function db:one(sql, ...) end

---The first column of the first row, or nil.
---@param sql nebula.pg.sql
---@return any
function db:value(sql, ...) end

---Runs a statement; or several in one text, without parameters, where nothing needs to be told apart.
---@param sql nebula.pg.sql
---@return integer affected rows
function db:exec(sql, ...) end

---Rows one by one in bounded memory: `for row in db:rows(sql, ...) do ... end`. Leaving the loop early
---ends the statement. Outside of a transaction it holds a connection; inside one it is a cursor, and the
---transaction's handle may be used in the loop.
---@param sql nebula.pg.sql
---@return fun(): table|nil next
---@return table rows closing it ends the statement
function db:rows(sql, ...) end

---@class nebula.pg.copy_out_options
---@field args? any[] the query's parameters, put into it as literals of their types
---@field format? "text"|"csv"|"binary"|"ndjson" ndjson is a line a row: an object of its columns without the
---  NULLs, or of a single column the JSON that it holds ("text")
---@field as? string ndjson: each row's object stands in another one, under this name

---Copies a query's rows (or a whole COPY ... TO STDOUT statement's) into a sink: a function that is
---called with each piece, or an object with a `write` method; it may wait. The sink is not finished.
---Errors: `validation` also where ndjson has no form for a column's type (numeric, arrays): select to_json(it).
---@param sql string
---@param sink fun(piece: string)|{write: fun(self, piece: string)}
---@param options? nebula.pg.copy_out_options
---@return integer rows
function db:copy_out(sql, sink, options) end

---Runs a COPY ... FROM STDIN statement over a source: a string, a function that gives pieces and then
---nil, an object with a `read` method, or a list of pieces. A piece is a string in the statement's
---format, or a row (a list of values), which is written in COPY's text form. A source that raises undoes
---the whole.
---@param sql string
---@param source string|table|fun(): string|table|nil
---@return integer rows
function db:copy_in(sql, source) end

---Sends a notification; inside a transaction, with its commit.
---@param channel string
---@param payload? string
function db:notify(channel, payload) end

---@class nebula.pg.batch_options
---@field transaction? boolean all or nothing (true); false: each statement stands for itself
---@field deadline? number|string of each statement (the pool's statement_timeout); not inside a transaction

---Sends all statements in one round trip (two where the types of a statement are not known yet) and
---gives their results in order. By default they are one transaction, or a part of the one they are in:
---the first error is raised, its `index` tells which statement it was, and nothing is done. With
---`transaction = false` a statement that fails has its error object in the place of its rows, and on an
---acquired connection statements that begin and end transactions may be among the others. An entry
---holds one statement with its parameters; NULL is `nebula.null`, or nil where `n` counts the entry.
---Raises what `query` raises, and `unknown_outcome` where the answer to the COMMIT was lost.
---@param list (string|{[1]: string, n?: integer})[] `{ sql, {sql, parameter, ...}, ... }`
---@param options? nebula.pg.batch_options
---@return {failed: integer} results a nebula.pg.rows for each entry; `failed` counts the errors among them
function db:batch(list, options) end

---@class nebula.pg.transaction_options
---@field isolation? "serializable"|"repeatable read"|"read committed"
---@field read_only? boolean
---@field deferrable? boolean
---@field deadline? number|string for the whole, reruns included (none)
---@field name? string what the server's administrators see the session as while it lasts: "nebula: name"
---@field retries? integer reruns of the function on 40001 and 40P01 (10)

---Calls `fn(tx)` in a transaction and returns what it returns. Returning commits; an error rolls back
---and is raised again; serialization failures and deadlocks run the function again. On a transaction's
---own handle it is a savepoint. Raises `unknown_outcome` where the answer to COMMIT was lost.
---@generic T
---@param fn fun(tx: nebula.pg.Connection): T
---@param options? nebula.pg.transaction_options
---@return T ...
function db:transaction(fn, options) end

---@class nebula.pg.statement_stats
---@field statement string
---@field calls integer
---@field errors integer
---@field rows integer
---@field seconds number of all calls
---@field mean number
---@field max number
---@field p50 number
---@field p95 number
---@field p99 number
---@field histogram {within: number, count: integer}[] buckets that are not empty; `within` is the upper bound

---Connections for everybody. What a statement changes in its session (SET, set_config, an advisory
---lock, a temporary table) is undone before the connection is given to another caller: :acquire one
---to keep such a state. A function of your own that changes the session behind a SELECT is not seen.
---A SELECT whose connection is lost counts as not done: write with INSERT, UPDATE, DELETE or in a
---:transaction where a lost answer has to be told apart (`unknown_outcome`).
---@class nebula.pg.Pool: nebula.pg.queries
local pool = {}

---A connection of one's own, for session state; `local c <close> = pool:acquire()`. Its settings are
---reset when it is given back. `name` is what the server's administrators see it as (`application_name`).
---@param options? {name?: string}
---@return nebula.pg.Connection
function pool:acquire(options) end

---@class nebula.pg.listen_options
---@field on_reconnect? fun(channel: string) runs in a task each time it listens again after the connection was lost
---@field ping? number|string silence after which the server is asked for a sign of life (10 s); then it has as long

---Calls `fn(payload, channel, pid)` in a task of its own for each notification. Waits until the server
---listens. All channels of a pool share one connection beside the pool's own; where it breaks, it is
---made again and listens again. What was notified in between is lost: look for it in `on_reconnect`.
---It goes on until the handle or the pool is closed, also where the handle is not kept. Not through a
---pooler in transaction mode.
---Raises `database` where the first connection cannot be made or the server refuses, `validation`,
---`pool` where the pool is closed.
---@param channel string 1 to 63 bytes, as it is: no case is folded
---@param fn fun(payload: string, channel: string, pid: integer)
---@param options? nebula.pg.listen_options
---@return nebula.pg.Listener
function pool:listen(channel, fn, options) end

---Has `fn(text)` make the value of a type wherever this pool reads one, also in arrays of the type: in
---a result, a stream, a transaction, from statements that are sent afterwards. `text` is the server's
---own, exact; nil counts as NULL. Any type may have one, those with a reader of the pool's own
---(numeric, timestamptz) as well; its results then come as text. `fn = nil` takes it away.
---`fn` runs when the statement has ended: it cannot wait, and what it raises is raised by the call
---(`script`, with the column's name, where it is no error object), though the statement was done.
---Waits: the server is asked for the type's number, which a type that is dropped and made again
---changes. Raises `validation` for a name that the server does not know or that is a domain's, `limit`
---for more than 64 types.
---@param type string as in SQL: "point", "myschema.mood", "timestamp with time zone"
---@param fn nil|fun(text: string): any
function pool:decoder(type, fn) end

---Counts: connections, idle, busy, held, connecting, waiting now; opened, closed, failed, requests,
---waited, timeouts, pipelined since the start. `held` are a caller's alone; `busy` run statements, or are
---reset after a caller.
---@return table<string, integer>
function pool:stats() end

---What the pool's statements have cost so far, the costliest first, their strings as ?. Times are in seconds,
---on the server and the wire; percentiles are right to a histogram's bucket (a factor of 1.41).
---@param most? integer how many (100)
---@return nebula.pg.statement_stats[]
function pool:statements(most) end

---Sets `max_connections`. Those above it close as they become idle.
---@param max_connections integer 1 to 10000
function pool:resize(max_connections) end

---Refuses what comes, ends what waits; each connection closes when its work is done.
function pool:close() end

---@class nebula.pg.Listener
local listener = {}

---Ends it; `fn` is not called again. Also by `<close>`.
function listener:close() end

---A held connection: from `pool:acquire`, or the handle of a transaction, good inside its function.
---@class nebula.pg.Connection: nebula.pg.queries
local connection = {}

---Calls `fn` once the transaction has committed, never where it is rolled back.
---@param fn fun()
function connection:on_commit(fn) end

---Gives the connection back. Also by `<close>`.
function connection:close() end

---A statement that a thread of its own repeats on a connection of its own, also while the script
---computes: how leases are kept alive.
---@class nebula.pg.Heartbeat
local heartbeat = {}

---@class nebula.pg.heartbeat_options
---@field sql string takes one text array a column as $1, $2, ...; returns the keys that are still good
---@field columns? integer values an entry has, 1 to 8 (1)
---@field interval? nebula.Duration between two rounds (10 s); a failed one is repeated after a quarter
---@field url? string as in `connect`

---Errors: `validation`, `config` for a malformed URL. The connection is made in the first round.
---@param options nebula.pg.heartbeat_options
---@return nebula.pg.Heartbeat
function pg.heartbeat(options) end

---Adds an entry or replaces the one with the key values[1]. After `seconds` it is dropped.
---Errors: `validation` for a value that is neither text without NUL nor a number nor nil.
---@param values any[]
---@param seconds? nebula.Duration
function heartbeat:set(values, seconds) end

---@param key string
function heartbeat:remove(key) end

---The keys that a round asked for and did not get back, each told once; they have left the set.
---@return string[]
function heartbeat:lost() end

---@return {entries: integer, rounds: integer, failures: integer, error: string?}
function heartbeat:stats() end

---Ends the thread. Also by `<close>`.
function heartbeat:close() end

return pg
