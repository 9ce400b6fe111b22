// Package openapi holds the generated OpenAPI definitions of the API's Go types, and serves them: as the /openapi/v2 and
// /openapi/v3 documents, and as the schemas by which managed fields are tracked. Building either costs a quarter of a
// second and tens of megabytes, so that each part is built when it is first asked for.
package openapi

//go:generate ./generate.sh
