package schema

// InstallConsumersBy is InstallConsumers with migrations that do not exist yet.
var InstallConsumersBy = installConsumers

// ConsumersMigrations are those that exist.
var ConsumersMigrations = consumersMigrations
