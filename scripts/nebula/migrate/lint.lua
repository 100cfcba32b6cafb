-- migrate/lint.lua: names DDL that stops or breaks what runs beside it, with the safe way.
--
-- It reads the SQL of a migration's steps, and of the strings inside its functions. A table that the
-- same migration creates is empty and unknown to others: there everything is allowed. An exception is
-- written with its reason: `allow = { rename = "no program reads it yet" }` in Lua, or a comment
-- `-- lint: allow rename, because no program reads it yet` in either.
local files = require "nebula.migrate.files"
local options = require "nebula.options"
local sql = require "nebula.migrate.sql"
local ui = require "nebula.ui"

local lint = {}

local SHOWN = 100 -- columns of a statement

local SAFE = {
  index = "every write to the table waits until it is built; use CREATE INDEX CONCURRENTLY in a migration with "
    .. "transaction = false",
  unnamed = "what an interruption leaves of it can only be found by its name; give the index one",
  not_null = "the rows that are there have no value, or the whole table is read under its lock; add the column with "
    .. "a default or NULL, backfill, then ADD CONSTRAINT ... CHECK (column IS NOT NULL) NOT VALID, VALIDATE "
    .. "CONSTRAINT, and SET NOT NULL behind it",
  volatile = "a default that differs from row to row rewrites the table under its lock; add the column without, "
    .. "SET DEFAULT, then migrate.backfill",
  type = "the table may be rewritten under its lock, and programs that know the old type break; add a column of the "
    .. "new type, write both, backfill, move the readers",
  foreign_key = "both tables are locked while every row is checked; ADD CONSTRAINT ... NOT VALID, and VALIDATE "
    .. "CONSTRAINT in a later step",
  check = "the table is locked while every row is checked; ADD CONSTRAINT ... NOT VALID, and VALIDATE CONSTRAINT in "
    .. "a later step",
  unique = "the table is locked while its index is built; CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT ... "
    .. "USING INDEX",
  rename = "programs that run know the old name; add the new one, write both, move the readers, then drop the old",
  drop = "programs that run may still use it, and it does not come back; stop using it in one release, drop it in a "
    .. "later one",
  backfill = "the locks of the DDL are held until every row is changed; transaction = false and migrate.backfill in a "
    .. "step of its own",
}

local VOLATILE = { "RANDOM%(", "GEN_RANDOM_UUID%(", "UUID_GENERATE", "CLOCK_TIMESTAMP%(", "TIMEOFDAY%(", "NEXTVAL%(" }

---@class nebula.LintFinding
---@field rule string
---@field path string
---@field line integer
---@field statement string
---@field message string

-- A name at the beginning of plain SQL, folded; and what follows it.
local function name_of(plain)
  plain = plain:match "^ONLY (.*)$" or plain
  local name = plain:match '^"[^"]*"%."[^"]*"' or plain:match '^[%w_$\128-\255]+%."[^"]*"' or plain:match '^"[^"]*"'
    or plain:match "^[%w_.$\128-\255]+"
  if not name then return nil, plain end
  return sql.folded(name:gsub("^PUBLIC%.", "")), plain:sub(#name + 1):gsub("^ ?%*? ?", "")
end

-- The clauses of an ALTER TABLE: split at commas outside of parentheses.
local function clauses(text)
  local list, depth, begin = {}, 0, 1
  for i = 1, #text + 1 do
    local c = text:sub(i, i)
    if c == "(" then depth = depth + 1 elseif c == ")" then depth = depth - 1 end
    if i > #text or c == "," and depth == 0 then
      list[#list + 1] = text:sub(begin, i - 1):match "^ *(.-) *$"
      begin = i + 1
    end
  end
  return list
end

local function has(text, words) return (" " .. text .. " "):find("[^%w_]" .. words .. "[^%w_]") ~= nil end

local function column_rules(clause, found)
  if has(clause, "NOT NULL") and not has(clause, "DEFAULT") and not has(clause, "GENERATED") then
    found[#found + 1] = "not_null"
  end
  local default = clause:match "DEFAULT (.*)$"
  for _, pattern in ipairs(default and VOLATILE or {}) do
    if default:find(pattern) then
      found[#found + 1] = "volatile"
      break
    end
  end
  if has(clause, "UNIQUE") or has(clause, "PRIMARY KEY") then found[#found + 1] = "unique" end
  if has(clause, "CHECK") then found[#found + 1] = "check" end
  if has(clause, "REFERENCES") and default and not default:find "^NULL" then found[#found + 1] = "foreign_key" end
end

local function constraint_rules(clause, found)
  local valid = not has(clause, "NOT VALID")
  if has(clause, "FOREIGN KEY") then
    if valid then found[#found + 1] = "foreign_key" end
  elseif has(clause, "CHECK") then
    if valid then found[#found + 1] = "check" end
  elseif not has(clause, "USING INDEX") then
    found[#found + 1] = "unique"
  end
end

local CONSTRAINTS = { CONSTRAINT = true, FOREIGN = true, CHECK = true, UNIQUE = true, PRIMARY = true, EXCLUDE = true }

local function alter_rules(clause, found)
  local added = clause:match "^ADD (.*)$"
  if added then
    if CONSTRAINTS[added:match "^%a+" or ""] then
      constraint_rules(added, found)
    else
      column_rules(added, found)
    end
  elseif clause:find "^RENAME " then
    found[#found + 1] = "rename"
  elseif clause:find "^DROP " and not clause:find "^DROP CONSTRAINT " then
    found[#found + 1] = "drop"
  elseif clause:find "^ALTER " then
    if clause:find " TYPE " then found[#found + 1] = "type" end
    if clause:find " SET NOT NULL$" then found[#found + 1] = "not_null" end
  end
end

local DROPPED = { TABLE = true, VIEW = true, MATERIALIZED = true, TYPE = true, SCHEMA = true, SEQUENCE = true }

-- The rules that a statement breaks. `made` are the tables that the migration has created so far.
local function rules_of(statement, made, in_transaction)
  local plain, found = statement.plain, {}
  local created = plain:match "^CREATE [%u ]-TABLE (.*)$"
  local altered = plain:match "^ALTER TABLE (.*)$"
  local index = sql.index(statement)
  if created and (plain:find "^CREATE TABLE " or plain:find "^CREATE UNLOGGED TABLE " or plain:find "^CREATE TEMP") then
    local name = name_of((created:gsub("^IF NOT EXISTS ", "")))
    if name then made[name] = true end
  elseif index then
    if index.concurrently and not index.name then found[1] = "unnamed" end
    if not index.concurrently and not made[name_of(index.table)] then found[1] = "index" end
  elseif altered then
    local name, rest = name_of((altered:gsub("^IF EXISTS ", "")))
    if not made[name] then
      for _, clause in ipairs(clauses(rest)) do
        alter_rules(clause, found)
        -- a validated CHECK spares SET NOT NULL its reading of the table
        if clause:find "^VALIDATE " then made[name .. " validated"] = true end
        if made[name .. " validated"] and clause:find " SET NOT NULL$" then found[#found] = nil end
      end
    end
  elseif plain:find "^ALTER %a+ .* RENAME " then
    found[1] = "rename"
  elseif plain:find "^TRUNCATE " or DROPPED[plain:match "^DROP (%u+)" or ""] then
    found[1] = "drop"
  elseif in_transaction and (plain:find "^UPDATE " or plain:find "^DELETE FROM ") then
    local name = name_of((plain:gsub("^UPDATE ", ""):gsub("^DELETE FROM ", "")))
    if not made[name] then found[1] = "backfill" end
  end
  return found
end

-- ---- the SQL of a migration ----

local KEYWORDS = { ALTER = true, CREATE = true, DROP = true, TRUNCATE = true, UPDATE = true, DELETE = true }

-- The strings of Lua source that look like SQL, and the lines they begin at.
local function strings_of(source, first_line)
  local found, i, line = {}, 1, first_line
  local function lines_in(text)
    local _, count = text:gsub("\n", "")
    return count
  end
  while i <= #source do
    local long = source:match("^%-%-%[(=*)%[", i)
    local open = source:match("^%[(=*)%[", i)
    local quote = source:match("^[\"']", i)
    local last, text
    if long then
      local _, close = source:find("]" .. long .. "]", i, true)
      last = close or #source
    elseif source:find("^%-%-", i) then
      last = (source:find("\n", i, true) or #source + 1) - 1
    elseif open then
      local from, close = source:find("]" .. open .. "]", i, true)
      last, text = close or #source, source:sub(i + #open + 2, (from or #source + 1) - 1)
    elseif quote then
      local at = i + 1
      while at <= #source and source:sub(at, at) ~= quote do
        at = at + (source:sub(at, at) == "\\" and 2 or 1)
      end
      last, text = at, source:sub(i + 1, at - 1)
    end
    local keyword = text and text:match "^%s*(%a+)%s"
    if keyword and KEYWORDS[keyword:upper()] then found[#found + 1] = { text = text, line = line } end
    last = last or i
    line = line + lines_in(source:sub(i, last))
    i = last + 1
  end
  return found
end

local function lines_between(text, first, last)
  local out, number = {}, 0
  for line in (text .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    if number >= first and number <= last then out[#out + 1] = line end
  end
  return table.concat(out, "\n")
end

-- Every piece of SQL that `up` may run: text, first line, and whether it backfills.
local function pieces(migration)
  local list, from = {}, 1
  for _, step in ipairs(migration.up) do
    if type(step) == "string" then
      local at = migration.text:find(step, from, true)
      local _, lines = migration.text:sub(1, (at or 1) - 1):gsub("\n", "")
      if at then from = at + #step end
      list[#list + 1] = { text = step, line = lines + 1 }
    else
      local info = debug.getinfo(step, "S")
      local source = lines_between(migration.text, info.linedefined, info.lastlinedefined)
      if source:find "[.:]backfill%f[^%w_]" then list[#list + 1] = { backfill = true, line = info.linedefined } end
      for _, one in ipairs(strings_of(source, info.linedefined)) do list[#list + 1] = one end
    end
  end
  return list
end

-- ---- exceptions ----

local function rule_names()
  local names = {}
  for name in pairs(SAFE) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- What a migration allows itself; complaints about exceptions that are none go to `add`.
local function exceptions(migration, add)
  local allowed = {}
  local function allow(rule, reason, line)
    if not SAFE[rule] then
      add("exception", line, tostring(rule), ("there is no rule %s%s; the rules are %s"):format(tostring(rule),
        options.did_you_mean(tostring(rule), rule_names()), table.concat(rule_names(), ", ")))
    elseif type(reason) ~= "string" or not reason:find "%a%a" then
      add("exception", line, rule, "an exception needs its reason: -- lint: allow " .. rule .. ", because ...")
    else
      allowed[rule] = true
    end
  end
  for rule, reason in pairs(migration.allow) do allow(rule, reason, 1) end
  local number = 0
  for line in (migration.text .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    local rules, reason = line:match "%-%-%s*lint:%s*allow%s+([%w_, ]-)%s*,?%s+because%s+(.*)$"
    rules = rules or line:match "%-%-%s*lint:%s*allow%s+([%w_, ]+)"
    for rule in (rules or ""):gmatch "[%w_]+" do allow(rule, reason, number) end
  end
  return allowed
end

-- ---- checking ----

--- What a migration does that is dangerous to others.
---@param migration nebula.Migration
---@return nebula.LintFinding[]
function lint.migration(migration)
  local found, made = {}, {}
  local function add(rule, line, statement, message)
    found[#found + 1] = { rule = rule, path = migration.path, line = line, statement = statement, message = message }
  end
  local allowed = exceptions(migration, add)
  local ddl, waiting = false, {}
  for _, piece in ipairs(pieces(migration)) do
    if piece.backfill then
      if migration.transaction then waiting[#waiting + 1] = { line = piece.line, statement = "migrate.backfill" } end
    else
      for _, statement in ipairs(sql.statements(piece.text)) do
        local line, seen = piece.line + statement.line - 1, {}
        local short = ui.fit(statement.text:gsub("%s+", " "), SHOWN)
        ddl = ddl or statement.plain:find "^ALTER " ~= nil or statement.plain:find "^CREATE [%u ]*INDEX" ~= nil
        for _, rule in ipairs(rules_of(statement, made, migration.transaction)) do
          if rule == "backfill" then
            waiting[#waiting + 1] = { line = line, statement = short }
          elseif not allowed[rule] and not seen[rule] then
            seen[rule] = true
            add(rule, line, short, SAFE[rule])
          end
        end
      end
    end
  end
  for _, one in ipairs(ddl and not allowed.backfill and waiting or {}) do
    add("backfill", one.line, one.statement, SAFE.backfill)
  end
  table.sort(found, function(a, b) return a.line < b.line end)
  return found
end

--- What the migrations of a directory do that is dangerous to others. Needs no database.
---@param directory string
---@return nebula.LintFinding[]
function lint.directory(directory)
  local found = {}
  for _, migration in ipairs(files.list("project", directory)) do
    for _, one in ipairs(lint.migration(migration)) do found[#found + 1] = one end
  end
  return found
end

return lint
