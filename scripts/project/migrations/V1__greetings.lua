-- migrations/V1__greetings.lua: the project's own first migration; the host's are a series apart.
return {
  summary = "Greetings",

  up = [[
    CREATE TABLE greetings (
      id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      name TEXT NOT NULL,
      text TEXT NOT NULL,
      greeted_at TIMESTAMPTZ NOT NULL DEFAULT now()
    )
  ]],

  down = "DROP TABLE greetings",
}
