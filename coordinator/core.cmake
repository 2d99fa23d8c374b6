# proto's plain structs are a header without code: nothing to link.
consort_room(coordinator_core
  SOURCES ${CMAKE_CURRENT_LIST_DIR}/sched.c ${CMAKE_CURRENT_LIST_DIR}/sched_admit.c ${CMAKE_CURRENT_LIST_DIR}/sched_batch.c
          ${CMAKE_CURRENT_LIST_DIR}/sched_adapt.c ${CMAKE_CURRENT_LIST_DIR}/sched_ahead.c ${CMAKE_CURRENT_LIST_DIR}/sched_draft.c ${CMAKE_CURRENT_LIST_DIR}/sched_follow.c ${CMAKE_CURRENT_LIST_DIR}/sched_lockstep.c
          ${CMAKE_CURRENT_LIST_DIR}/sched_move.c ${CMAKE_CURRENT_LIST_DIR}/sched_state.c
          ${CMAKE_CURRENT_LIST_DIR}/sched_habit.c ${CMAKE_CURRENT_LIST_DIR}/sim.c ${CMAKE_CURRENT_LIST_DIR}/sim_nodes.c
          ${CMAKE_CURRENT_LIST_DIR}/sched_stall.c ${CMAKE_CURRENT_LIST_DIR}/sched_swap.c
  SEES base speculative kv_core)
