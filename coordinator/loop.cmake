consort_room(coordinator SOURCES ${CMAKE_CURRENT_LIST_DIR}/loop.c ${CMAKE_CURRENT_LIST_DIR}/members.c ${CMAKE_CURRENT_LIST_DIR}/moves.c ${CMAKE_CURRENT_LIST_DIR}/front_grpc.c ${CMAKE_CURRENT_LIST_DIR}/front_http.c ${CMAKE_CURRENT_LIST_DIR}/metrics.c ${CMAKE_CURRENT_LIST_DIR}/answer.c ${CMAKE_CURRENT_LIST_DIR}/trace.c
             SEES base coordinator_core kv_core model_text proto config net)
