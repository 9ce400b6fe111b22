package e2e

import (
	"strings"
	"testing"
)

// jobOf is a Job of one container that runs a shell script.
func jobOf(name, spec, script string) string {
	return `
apiVersion: batch/v1
kind: Job
metadata: {name: ` + name + `}
spec:
  ` + strings.Join(strings.Split(spec, ";"), "\n  ") + `
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, '` + script + `']}]
`
}

// condition waits for a Job to have one and returns its reason.
func (s *space) condition(job, condition string) string {
	s.t.Helper()
	s.kubectl("wait", "--for=condition="+condition, "job/"+job, "--timeout=60s")
	return s.kubectl("get", "job", job, "-o", `jsonpath={.status.conditions[?(@.type=="`+condition+`")].reason}`)
}

func TestJobIndexed(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(jobOf("each", "completions: 3;parallelism: 2;completionMode: Indexed", `echo I am $JOB_COMPLETION_INDEX`))
	equal(t, "reason", s.condition("each", "Complete"), "CompletionsReached")
	equal(t, "indexes", s.kubectl("get", "job", "each", "-o", "jsonpath={.status.completedIndexes}"), "0-2")
	for _, index := range []string{"0", "1", "2"} {
		equal(t, "log", s.kubectl("logs", "-l", "batch.kubernetes.io/job-completion-index="+index), "I am "+index+"\n")
	}
	// A try that fails costs its own index one, not the others.
	s.apply(jobOf("some", "completions: 3;parallelism: 3;completionMode: Indexed;backoffLimitPerIndex: 0", `exit $((JOB_COMPLETION_INDEX == 1))`))
	equal(t, "reason", s.condition("some", "Failed"), "FailedIndexes")
	equal(t, "failed", s.kubectl("get", "job", "some", "-o", "jsonpath={.status.failedIndexes} {.status.completedIndexes}"), "1 0,2")
}

func TestJobPolicies(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(jobOf("fatal", `backoffLimit: 6;podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {containerName: main, operator: In, values: [42]}}]}`, "exit 42"))
	equal(t, "reason", s.condition("fatal", "Failed"), "PodFailurePolicy")
	equal(t, "tries", len(s.names("job-name=fatal")), 1)
	contains(t, "message", s.kubectl("describe", "job", "fatal"), "failed with exit code 42 matching FailJob rule at index 0")

	s.apply(jobOf("first", `completions: 3;parallelism: 3;completionMode: Indexed;successPolicy: {rules: [{succeededIndexes: "0"}]}`,
		`test $JOB_COMPLETION_INDEX = 0 || sleep 1000000`))
	equal(t, "reason", s.condition("first", "SuccessCriteriaMet"), "SuccessPolicy")
	equal(t, "reason", s.condition("first", "Complete"), "SuccessPolicy")

	s.apply(jobOf("later", "suspend: true;ttlSecondsAfterFinished: 0", "true"))
	equal(t, "reason", s.condition("later", "Suspended"), "JobSuspended")
	equal(t, "Pods while suspended", len(s.names("job-name=later")), 0)
	s.kubectl("patch", "job", "later", "--type=merge", "-p", `{"spec":{"suspend":false}}`)
	s.event("later", "Resumed", "Job resumed")
	s.kubectl("wait", "--for=delete", "job/later", "--timeout=60s")

	s.apply(jobOf("long", "activeDeadlineSeconds: 1", "sleep 1000000"))
	equal(t, "reason", s.condition("long", "Failed"), "DeadlineExceeded")
	s.apply(jobOf("never", "backoffLimit: 0", "exit 1"))
	equal(t, "reason", s.condition("never", "Failed"), "BackoffLimitExceeded")
}

// A Job made of a CronJob by hand is the CronJob's, and goes with it.
func TestCronJobManual(t *testing.T) {
	t.Parallel()
	eachKubectl(t, func(s *space) {
		s.kubectl("create", "cronjob", "nightly", "--image=busybox", "--schedule=0 0 1 1 *", "--", "echo", "ran")
		s.kubectl("create", "job", "now", "--from=cronjob/nightly")
		s.condition("now", "Complete")
		equal(s.t, "log", s.kubectl("logs", "job/now"), "ran\n")
		// It belongs to the CronJob, and says that a person made it.
		equal(s.t, "owner", s.kubectl("get", "job", "now", "-o", "jsonpath={.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name}"), "CronJob/nightly")
		equal(s.t, "annotation", s.kubectl("get", "job", "now", "-o", `jsonpath={.metadata.annotations.cronjob\.kubernetes\.io/instantiate}`), "manual")
		s.failsIn("", []string{"create", "cronjob", "bad", "--image=busybox", "--schedule=61 * * * *"}, "spec.schedule: Invalid value: \"61 * * * *\"")
		s.kubectl("delete", "cronjob", "nightly")
		s.kubectl("wait", "--for=delete", "job/now", "--timeout=60s")
	})
}
